"""
A CNN, its features, and the hybrid
===================================

Train a CNN on Fashion-MNIST, extract its features, train an MLP on them, and join both into one hybrid network.

.. code-block:: sh

    python scripts/cnn_feature_extraction.py
    python scripts/cnn_feature_extraction.py --filters 16 32 64 --epochs 4 --device cuda

``gpunet train hybrid`` does the same with augmentation, checkpoints and a report, and can fine-tune both jointly.
"""

import argparse
import time
from pathlib import Path

import gpunet as gn
from gpunet.report import figures, metrics
from gpunet.training.evaluation import extract


def fit(model: gn.nn.Layer, train: gn.data.Loader, validation: gn.data.Loader, epochs: int, lr: float) -> None:
    """Batches, forward, loss, backward, update: the same for images and features."""
    batch_size, seed = min(128, train.size), 0
    steps = train.size // batch_size
    cross_entropy = gn.nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = gn.optim.SGD(momentum=0.9, nesterov=True, weight_decay=5e-4)
    optimizer.bind(model.flat)
    schedule = gn.optim.schedules.OneCycle(lr, total_steps=epochs * steps, steps_per_epoch=steps)
    for epoch in range(epochs):
        started, loss_sum = time.perf_counter(), 0.0
        train.shuffle(seed, epoch)
        for index in range(steps):
            step = epoch * steps + index
            x, labels = train.training_batch(index * batch_size, batch_size, seed=seed, step=step)
            ctx = gn.nn.ForwardContext(training=True, seed=seed, step=step, needs_input_grad=False)
            logits, backward = model.forward(x, ctx)
            loss, dlogits = cross_entropy(logits, labels)
            backward(dlogits)
            optimizer.update(schedule.lr(step), step + 1)
            loss_sum += float(loss)
        found = gn.training.evaluate(model, validation)
        print(
            f"epoch {epoch + 1:>2}/{epochs}  train loss {loss_sum / steps:.4f}  "
            f"validation accuracy {found.accuracy:.2%}  {time.perf_counter() - started:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="A CNN, an MLP on its features, and the hybrid of both.")
    parser.add_argument("--data", default="fashion-mnist", help="fashion-mnist, an IDX folder or an NPZ file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--filters", type=int, nargs="+", default=(32, 64, 128, 256, 512), help="filters of each block")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/cnn_feature_extraction"), help="output folder of the figures"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    gn.use_device(args.device)  # NumPy or CuPy: the code below is the same for both
    data, test_images = gn.data.load(args.data)
    parts = gn.data.split(data, fraction=0.2, seed=0)
    train, validation, test = (
        gn.data.Loader(part.images, part.labels) for part in (parts.train, parts.validation, test_images)
    )

    # Blocks of convolution, batch norm, ReLU and, while the map is at least 2x2, 2x2 max pooling; then a classifier.
    cnn = gn.models.CNN(data.image_shape, data.classes, args.filters, dropout=0.2).initialize(seed=0)
    print(gn.nn.summary(cnn, data.image_shape))
    fit(cnn, train, validation, args.epochs, lr=0.1)

    hybrid = gn.models.Hybrid(cnn, data.classes, dropout=0.2)  # shares the CNN's layers up to its features
    features = [
        gn.data.Loader(extract(hybrid.extract_features, loader), part.labels)
        for loader, part in ((train, parts.train), (validation, parts.validation))
    ]
    hybrid.classifier.initialize(seed=0)
    print(f"an MLP on {features[0].input_shape[0]} features per image")
    fit(hybrid.classifier, features[0], features[1], args.epochs, lr=0.02)
    hybrid.initialize(seed=0)  # keeps all trained values; CNN and MLP are now one network

    for name, model in (("CNN", cnn), ("hybrid", hybrid)):
        found = gn.training.evaluate(model, test, keep_probabilities=True)  # the test images, once per model
        matrix = metrics.confusion_matrix(test_images.labels, found.probabilities.argmax(1), data.classes)
        figures.plot_confusion_matrix(matrix, data.class_names, args.out / f"{name.lower()}_confusion_matrix.png")
        low, high = metrics.wilson_interval(found.correct, found.total)
        print(f"{name:<6} test accuracy {found.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})")
    scatter = extract(hybrid.extract_features, test)
    figures.plot_feature_scatter(scatter, test_images.labels, data.class_names, args.out / "features.png")
    print(f"figures: {args.out}")


if __name__ == "__main__":
    main()
