"""
An MLP, step by step
====================

Train the MLP 784-128-64-10 on Fashion-MNIST with an explicit training loop: forward, loss, backward, update.

.. code-block:: sh

    python scripts/mlp_from_scratch.py
    python scripts/mlp_from_scratch.py --activation gelu --epochs 20 --device cuda

``gpunet train mlp`` trains the same network with augmentation, checkpoints and a report.
"""

import argparse
import time
from pathlib import Path

import gpunet as gn
from gpunet.report import figures, metrics


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an MLP, step by step.")
    parser.add_argument("--data", default="fashion-mnist", help="fashion-mnist, an IDX folder or an NPZ file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--hidden", type=int, nargs=2, default=(128, 64), help="sizes of the two hidden layers")
    parser.add_argument("--activation", default="relu", choices=gn.nn.ACTIVATIONS)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/mlp_from_scratch"), help="output folder of the figures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    gn.use_device(args.device)  # NumPy or CuPy: the code below is the same for both
    data, test_images = gn.data.load(args.data)
    parts = gn.data.split(data, fraction=0.2, seed=args.seed)
    sets = parts.train, parts.validation, test_images
    train, validation, test = (gn.data.Loader(part.images, part.labels) for part in sets)

    pixels, (first, second) = data.images[0].size, args.hidden
    model = gn.nn.Sequential([
        gn.nn.Flatten(),
        gn.nn.Linear(pixels, first), gn.nn.make_activation(args.activation), gn.nn.Dropout(args.dropout),
        gn.nn.Linear(first, second), gn.nn.make_activation(args.activation), gn.nn.Dropout(args.dropout),
        gn.nn.Linear(second, data.classes),
    ]).initialize(args.seed)  # fmt: skip
    print(gn.nn.summary(model, data.image_shape))
    cross_entropy = gn.nn.CrossEntropyLoss()
    optimizer = gn.optim.AdamW(weight_decay=0.01)
    optimizer.bind(model.flat)
    steps = train.size // args.batch_size  # per epoch
    schedule = gn.optim.schedules.OneCycle(args.lr, total_steps=args.epochs * steps, steps_per_epoch=steps)

    history = []
    for epoch in range(args.epochs):
        started, loss_sum, correct = time.perf_counter(), 0.0, 0
        train.shuffle(args.seed, epoch)
        for index in range(steps):
            step = epoch * steps + index
            x, labels = train.training_batch(index * args.batch_size, args.batch_size, seed=args.seed, step=step)
            logits, backward = model.forward(x, gn.nn.ForwardContext(training=True, seed=args.seed, step=step))
            loss, dlogits = cross_entropy(logits, labels)
            backward(dlogits)  # fills the gradients of all parameters
            optimizer.update(schedule.lr(step), step + 1)
            loss_sum += float(loss)
            correct += int(gn.ops.count_correct(logits, labels))
        found = gn.training.evaluate(model, validation)
        record = {
            "epoch": epoch + 1,
            "lr": schedule.lr(step),
            "train_loss": loss_sum / steps,
            "train_accuracy": correct / (steps * args.batch_size),
            "validation_loss": found.loss,
            "validation_accuracy": found.accuracy,
        }
        history.append(record)
        print(
            f"epoch {epoch + 1:>2}/{args.epochs}  train loss {record['train_loss']:.4f}  "
            f"validation loss {found.loss:.4f} accuracy {found.accuracy:.2%}  {time.perf_counter() - started:.1f} s"
        )

    found = gn.training.evaluate(model, test, keep_probabilities=True)  # the test images, once
    matrix = metrics.confusion_matrix(test_images.labels, found.probabilities.argmax(1), data.classes)
    figures.plot_learning_curves(history, args.out / "learning_curves.png")
    figures.plot_confusion_matrix(matrix, data.class_names, args.out / "confusion_matrix.png")
    low, high = metrics.wilson_interval(found.correct, found.total)
    print(f"figures: {args.out}")
    print(f"test accuracy {found.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
