"""A table of a model's layers."""

from __future__ import annotations

from gpunet.nn.layer import Layer, Shape


def summary(model: Layer, input_shape: Shape) -> str:
    """Name, type, output shape, parameters and FLOPs of each layer, for an input of `input_shape` (without N).

    >>> model = gn.nn.Sequential([("flatten", gn.nn.Flatten()), ("linear", gn.nn.Linear(784, 10))])
    >>> print(gn.nn.summary(model, (28, 28, 1)))
    layer    type     output  parameters   FLOPs
    --------------------------------------------
    flatten  Flatten  784              0       0
    linear   Linear   10           7,850  15,680
    --------------------------------------------
    total                          7,850  15,680
    """
    rows = [("layer", "type", "output", "parameters", "FLOPs")]

    def walk(name: str, layer: Layer, shape: Shape) -> Shape:
        children = list(layer.children())
        for child_name, child in children:
            shape = walk(f"{name}.{child_name}" if name else child_name, child, shape)
        if not children:
            out = layer.output_shape(shape)
            size = " x ".join(map(str, out))
            rows.append((name, type(layer).__name__, size, f"{layer.parameter_count:,}", f"{layer.flops(shape):,}"))
            shape = out
        return shape

    walk("", model, input_shape)
    rows.append(("total", "", "", f"{model.parameter_count:,}", f"{model.flops(input_shape):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 8)
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:-1]), rule, line(rows[-1])])
