"""``prange`` of the CPU kernels: a loop over tasks, divided among the threads of Numba's pool.

Each thread runs the whole kernel with its share of the loop, as in a parallel region of OpenMP, and then takes over
tasks of others that are slower. A single task is left to the thread that calls the kernel. (Numba's own ``prange``
makes a function of the loop, which is optimised three times on its way into the kernel: it takes twice as long to
compile. And threads wait for the slowest.) In return, a kernel

- has one loop over ``prange``, as its last statement, and returns nothing;
- writes to its arguments in the loop alone: what comes before it is run by each thread;
- has no array among its arguments that overlaps one that it writes to;
- calls another such kernel in the loop alone, where it runs as a whole on the thread that calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.callconv import RETCODE_USEREXC
from numba.core.imputils import RefType, iternext_impl
from numba.extending import intrinsic, lower_builtin, models, register_model

_byte_pointer = ir.IntType(8).as_pointer()
_int, _intp = ir.IntType(32), cgutils.intp_t
_share_type = ir.FunctionType(
    ir.VoidType(), [_byte_pointer.as_pointer(), _intp.as_pointer(), _intp.as_pointer(), _byte_pointer]
)
"""Of an inner loop of a NumPy ufunc, (args, dimensions, steps, data), which Numba's pool calls."""

_REGION = "threads", "size", "count", "next", "error"
"""What the threads share, besides the arguments: the number of threads the caller may use, those at work, the tasks,
the address of the next task of each share, and that of the exception that one of the threads has met, or null."""
_STATE = "task", "end", "owner", "owners", "size", "count", "next"
"""Of a thread's loop: its next task, where those at hand end, whose share they are of, how many shares are left to look
at, and the same as in _REGION."""
_region_start = [_intp] * 3 + [_intp.as_pointer(), _byte_pointer]
_state_type = ir.LiteralStructType([_intp] * 6 + [_intp.as_pointer()])
_LINE = 8
"""Distance of the numbers at "next": each has a cache line of its own."""
_CHUNKS = 16
"""Number of parts, at least, in which a thread takes the tasks of its share, so that others can take some over."""

_Iterator: Any = types.SimpleIteratorType


class _Tasks(_Iterator):  # type: ignore[misc]  # Numba has no types
    """Numba's type of ``prange(count)``; its value is the address of a _STATE."""

    def __init__(self) -> None:
        super().__init__("gpunet.prange", types.intp)


_tasks = _Tasks()
register_model(_Tasks)(models.OpaqueModel)


def _prange(typing_context: Any, count: Any) -> Any:
    numba.get_num_threads()  # starts the threads, and makes their functions known to LLVM

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count, kernel = context.cast(builder, args[0], signature.args[0], types.intp), builder.function
        if context.fndesc.restype != types.none or f"{kernel.name}.launch" in builder.module.globals:
            raise TypeError(f"{context.fndesc.qualname}: a kernel has one loop over prange, and returns nothing")
        with builder.goto_entry_block():
            memory = builder.alloca(_state_type)
        state = _Struct(builder, memory, _STATE)
        threads = builder.sext(builder.call(_pool_function(builder.module, "get_num_threads"), []), _intp)
        with builder.if_else(builder.icmp_signed(">", threads, _intp(0))) as (called, sharing):
            with called:
                _let_no_arrays_overlap(kernel)
                _run_on_threads(context, builder, threads, count)
                for name in ("task", "end", "owners"):  # nothing is left for this call itself
                    state[name] = _intp(0)
            with sharing:
                region_type = ir.LiteralStructType(_region_start)
                address = builder.bitcast(builder.load(kernel.args[1]), region_type.as_pointer())
                region = _Struct(builder, address, _REGION)
                for name in ("size", "count", "next"):
                    state[name] = region[name]
                state["task"], state["end"] = _intp(0), _intp(0)
                state["owner"], state["owners"] = builder.sub(builder.neg(threads), _intp(1)), region["size"]
                _set_num_threads(builder, _intp(1))  # for kernels that are called in the loop
        return builder.bitcast(memory, context.get_value_type(_tasks))

    return _tasks(count), codegen


prange: Any = intrinsic(_prange)
"""``prange(count)``: the numbers below `count` that are this thread's; in a ``for`` statement of a kernel."""


class _Struct:
    """The members of a struct in memory, by name."""

    def __init__(self, builder: Any, memory: Any, names: Sequence[str]) -> None:
        self.builder, self.memory, self.names = builder, memory, names

    def _address(self, name: str) -> Any:
        return cgutils.gep_inbounds(self.builder, self.memory, 0, self.names.index(name))

    def __getitem__(self, name: str) -> Any:
        return self.builder.load(self._address(name))

    def __setitem__(self, name: str, value: Any) -> None:
        self.builder.store(value, self._address(name))


@lower_builtin("iternext", _Tasks)
@iternext_impl(RefType.UNTRACKED)
def _next_task(context: Any, builder: Any, signature: Any, args: Any, result: Any) -> None:
    state = _Struct(builder, builder.bitcast(args[0], _state_type.as_pointer()), _STATE)
    found = cgutils.alloca_once_value(builder, builder.icmp_signed("<", state["task"], state["end"]))
    with builder.if_then(builder.not_(builder.load(found)), likely=False):
        builder.store(builder.call(_more_tasks(builder.module), [state.memory]), found)
    result.set_valid(builder.load(found))
    with builder.if_then(builder.load(found)):
        task = state["task"]
        state["task"] = builder.add(task, _intp(1))
        # The mask tells LLVM that the number is not negative, so that as an index it does not count from the end.
        result.yield_(builder.and_(task, _intp(2**63 - 1)))


def _more_tasks(module: Any) -> Any:
    """The function that takes the next tasks of the thread's own share, then of others, into its state, if any."""
    function_type, name = ir.FunctionType(ir.IntType(1), [_state_type.as_pointer()]), "gpunet.prange.more_tasks"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, function_type, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    state, one = _Struct(builder, function.args[0], _STATE), _intp(1)
    look, taken, none_left, is_next, end = (function.append_basic_block() for _ in range(5))
    builder.branch(look)
    builder.position_at_end(look)
    owner = state["owner"]
    builder.cbranch(builder.icmp_signed(">", state["owners"], _intp(0)), is_next, none_left)
    builder.position_at_end(is_next)
    size, count = state["size"], state["count"]
    part = builder.sdiv(count, builder.mul(size, _intp(_CHUNKS)))
    chunk = builder.select(builder.icmp_signed("<", part, one), one, part)
    place = builder.gep(state["next"], [builder.mul(owner, _intp(_LINE))])
    first = builder.atomic_rmw("add", place, chunk, "monotonic")
    limit = _begin(builder, count, builder.add(owner, one), size)
    builder.cbranch(builder.icmp_signed("<", first, limit), taken, end)
    builder.position_at_end(taken)
    last = builder.add(first, chunk)
    state["task"] = first
    state["end"] = builder.select(builder.icmp_signed("<", last, limit), last, limit)
    builder.ret(ir.IntType(1)(1))
    builder.position_at_end(end)  # of this share
    state["owner"] = builder.srem(builder.add(owner, one), size)
    state["owners"] = builder.sub(state["owners"], one)
    builder.branch(look)
    builder.position_at_end(none_left)
    builder.ret(ir.IntType(1)(0))
    return function


def _begin(builder: Any, count: Any, rank: Any, size: Any) -> Any:
    """Where share `rank` of `count` tasks begins."""
    return builder.sdiv(builder.mul(count, rank), size)


def _let_no_arrays_overlap(kernel: Any) -> None:
    """Tell LLVM that what one of the kernel's arrays refers to is not written through another."""
    for argument in kernel.args[2:]:
        if isinstance(argument.type, ir.PointerType):
            argument.add_attribute("noalias")


def _pool_function(module: Any, name: str) -> Any:
    """A function of Numba's pool; for each thread, it keeps the number of threads that its kernels may use."""
    signatures = {
        "get_num_threads": ir.FunctionType(_int, []),
        "set_num_threads": ir.FunctionType(ir.VoidType(), [_int]),
        "numba_parallel_for": ir.FunctionType(ir.VoidType(), [_byte_pointer] * 5 + [_intp] * 3),
    }
    return cgutils.get_or_insert_function(module, signatures[name], name)


def _set_num_threads(builder: Any, count: Any) -> None:
    builder.call(_pool_function(builder.module, "set_num_threads"), [builder.trunc(count, _int)])


def _run_on_threads(context: Any, builder: Any, threads: Any, count: Any) -> None:
    """Call the kernel that is being built, with its own arguments, on `threads` threads, or fewer for fewer tasks.

    It raises what any of the calls raises.
    """
    kernel = builder.function
    arguments = _without_owners(context, kernel.args[2:])
    region_type = ir.LiteralStructType([*_region_start, *(argument.type for argument in arguments)])
    with builder.goto_entry_block():
        region = _Struct(builder, builder.alloca(region_type), _REGION)
    region["threads"], region["count"], region["error"] = threads, count, _byte_pointer(None)
    region["size"] = builder.select(builder.icmp_signed("<", count, threads), count, threads)
    for k, argument in enumerate(arguments, len(_REGION)):
        builder.store(argument, cgutils.gep_inbounds(builder, region.memory, 0, k))
    with builder.if_then(builder.icmp_signed(">", count, _intp(0))):
        builder.call(_launch(builder.module, kernel, region_type), [region.memory])
    error = region["error"]
    with builder.if_then(cgutils.is_not_null(builder, error), likely=False):
        builder.store(builder.bitcast(error, kernel.args[1].type.pointee), kernel.args[1])
        builder.ret(RETCODE_USEREXC)


def _launch(module: Any, kernel: Any, region_type: Any) -> Any:
    """The function that has as many threads as a region says call `kernel`."""
    function_type = ir.FunctionType(ir.VoidType(), [region_type.as_pointer()])
    function = ir.Function(module, function_type, f"{kernel.name}.launch")
    function.linkage = "internal"
    function.attributes.add("noinline")  # it reserves room on the stack
    builder = ir.IRBuilder(function.append_basic_block())
    region = _Struct(builder, function.args[0], _REGION)
    size, count = region["size"], region["count"]
    numbers = builder.alloca(_intp, builder.mul(size, _intp(_LINE)))
    numbers.align = 8 * _LINE
    region["next"] = numbers
    with cgutils.for_range(builder, size) as loop:
        place = builder.gep(numbers, [builder.mul(loop.index, _intp(_LINE))])
        builder.store(_begin(builder, count, loop.index, size), place)
    ranks, dimensions, steps = builder.alloca(_byte_pointer), builder.alloca(_intp), builder.alloca(_intp)
    builder.store(_byte_pointer(None), ranks)  # rank k is address k
    builder.store(size, dimensions)
    builder.store(_intp(1), steps)
    share, data = _share(module, kernel, region_type), builder.bitcast(region.memory, _byte_pointer)
    with builder.if_else(builder.icmp_signed(">", size, _intp(1))) as (several, alone):
        with several:
            addresses = [builder.bitcast(pointer, _byte_pointer) for pointer in (share, ranks, dimensions, steps)]
            builder.call(_pool_function(module, "numba_parallel_for"), [*addresses, data, _intp(0), _intp(1), size])
        with alone:
            builder.call(share, [ranks, dimensions, steps, data])
    builder.ret_void()
    return function


def _without_owners(context: Any, arguments: Any) -> list[Any]:
    """`arguments`, their arrays without the objects that own their memory.

    The caller holds them. A thread that binds an array to a name would count a reference, in memory that all share.
    """
    owners = [owner for argument_type in context.fndesc.argtypes for owner in _owners(context, argument_type)]
    return [
        ir.Constant(argument.type, None) if owner else argument
        for argument, owner in zip(arguments, owners, strict=True)
    ]


def _owners(context: Any, argument_type: Any) -> list[bool]:
    """Of the LLVM arguments that stand for one of `argument_type`, whether they are an array's owner."""
    if isinstance(argument_type, types.BaseTuple):
        return [owner for element in argument_type for owner in _owners(context, element)]
    packer = context.get_arg_packer([argument_type])
    members = [False] * len(packer.argument_types)
    if isinstance(argument_type, types.Array):
        members[:2] = True, True  # meminfo and parent
    return members


def _share(module: Any, kernel: Any, region_type: Any) -> Any:
    """The function that calls `kernel` for a share of its loop: it finds the address of the region at its second
    argument, where it puts that of an exception, and for its number of threads -(rank + 1)."""
    function = ir.Function(module, _share_type, name=f"{kernel.name}.share")
    function.linkage = "internal"
    ranks, dimensions, _, data = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    region = _Struct(builder, builder.bitcast(data, region_type.as_pointer()), _REGION)
    arguments = [
        builder.load(cgutils.gep_inbounds(builder, region.memory, 0, k))
        for k in range(len(_REGION), len(region_type.elements))
    ]
    result, error = builder.alloca(kernel.args[0].type.pointee), builder.alloca(kernel.args[1].type.pointee)
    first, threads = builder.ptrtoint(builder.load(ranks), _intp), region["threads"]
    with cgutils.for_range(builder, builder.load(dimensions)) as loop:
        builder.store(builder.bitcast(data, kernel.args[1].type.pointee), error)
        rank = builder.add(first, loop.index)
        _set_num_threads(builder, builder.sub(_intp(-1), rank))
        status = builder.call(kernel, [result, error, *arguments])
        _set_num_threads(builder, threads)
        with builder.if_then(builder.icmp_signed(">", status, _int(0)), likely=False):
            region["error"] = builder.bitcast(builder.load(error), _byte_pointer)
    builder.ret_void()
    return function
