"""``gpunet data``: fetch, verify and locate Fashion-MNIST; pack any images into shards, and verify these."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from gpunet.cli.console import print_json
from gpunet.cli.flags import add_flag, given_options
from gpunet.cli.parser import Parser, UsageError, common_options, json_option, number
from gpunet.data.config import READING
from gpunet.errors import DataError

_PACK_OPTIONS = tuple(name for name in READING if name != "task")  # what is packed has classes
_MOST_PER_SHARD = 2**31


def add_arguments(parser: Parser) -> None:
    """Add the command's actions to its parser."""
    parser.set_defaults(run=_no_action, data=None, folder=None, verify=False, json=False, images_per_shard=0)
    add_action = parser.with_commands("action")
    for name, action, text in (
        ("fetch", _fetch, "find Fashion-MNIST's files, or download them if they are missing"),
        ("verify", _verify, "check Fashion-MNIST's files, or packed data, against their SHA-256 checksums"),
        ("path", _path, "print the folder that contains Fashion-MNIST's files"),
    ):
        add_action(name, functools.partial(_add_action_arguments, action), help=text)
    add_action("pack", _add_pack_arguments, help="write images as shards, for training that reads them from the disk")


def _add_action_arguments(action: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    parser.set_defaults(run=action)
    if action is _verify:
        parser.add_argument("folder", nargs="?", metavar="FOLDER", help="packed data, or the folder of the files")
    parser.add_argument("--data", metavar="PATH", help="folder of the files (default: search the usual locations)")
    common_options(parser)


def _add_pack_arguments(parser: Parser) -> None:
    from gpunet.data.config import DataConfig

    parser.set_defaults(run=_pack)
    parser.add_argument("source", metavar="SOURCE", help="fashion-mnist, or the path of the data set")
    parser.add_argument("out", metavar="OUT", help="folder for the shards: a new one, or of a pack that did not finish")
    group = parser.add_argument_group("packing")
    group.add_argument(
        "--images-per-shard",
        metavar="N",
        type=number("--images-per-shard", 1, _MOST_PER_SHARD),
        help="images in a shard (default: as many as make up 64 MiB)",
    )
    group.add_argument("--verify", action="store_true", help="read all shards again, and check them")
    defaults = DataConfig()
    for name in _PACK_OPTIONS:
        add_flag(group, DataConfig, name, getattr(defaults, name))
    json_option(parser)
    common_options(parser)


def _no_action(args: argparse.Namespace) -> None:
    raise UsageError("no action given: expected gpunet data fetch, verify, path or pack")


def _fetch(args: argparse.Namespace) -> None:
    from gpunet import data

    print(data.fetch(_given(args)))


def _verify(args: argparse.Namespace) -> None:
    from gpunet import data
    from gpunet.data.packed import is_packed_folder, verify_packed

    if args.folder is not None and args.data is not None:
        raise UsageError("give the folder once: gpunet data verify FOLDER")
    given = _given(args) if args.folder is None else Path(args.folder)
    packed = given is not None and given.is_dir() and is_packed_folder(given)
    for name, digest in (verify_packed(given) if packed and given else data.verify(given)).items():
        print(f"{digest}  {name}")


def _pack(args: argparse.Namespace) -> None:
    from gpunet.data.pack import pack
    from gpunet.data.packed import verify_packed

    index = pack(args.source, args.out, images_per_shard=args.images_per_shard, **given_options(args))
    if args.verify:
        verify_packed(Path(args.out))
    images = {part: sum(entry.images for entry in entries) for part, entries in index.parts.items()}
    shards = sum(len(entries) for entries in index.parts.values())
    if args.json:
        print_json({"folder": args.out, "images": images, "shards": shards, **_facts(index.document())})
        return
    size = " x ".join(map(str, index.image_shape))
    counts = ", ".join(f"{count} {part}" for part, count in images.items())
    print(f"{args.out}: {counts} images of {size}, {len(index.class_names)} classes, {shards} shards")


def _facts(document: dict[str, object]) -> dict[str, object]:
    return {name: document[name] for name in ("class_names", "image_shape", "value_range", "test_split")}


def _path(args: argparse.Namespace) -> None:
    from gpunet import data

    given = _given(args)
    found = data.find(given)
    if found is None:
        where = f"in {given}" if given else "in any of the usual locations"
        raise DataError(f"the Fashion-MNIST files are not {where}; download them with: gpunet data fetch")
    print(found)


def _given(args: argparse.Namespace) -> Path | None:
    return None if args.data is None else Path(args.data)
