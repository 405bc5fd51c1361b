"""``prange`` of the CPU kernels: a loop over tasks, divided among the threads of Numba's pool.

Each thread runs the whole kernel with its share of the loop, as in a parallel region of OpenMP. (Numba's own ``prange``
makes a function of the loop, which is optimised three times on its way into the kernel: it takes twice as long to
compile.) In return, a kernel

- has one loop over ``prange``, as its last statement, and returns nothing;
- writes to its arguments in the loop alone: what comes before it is run by each thread;
- has no array among its arguments that overlaps one that it writes to;
- calls another such kernel in the loop alone, where it runs as a whole on the thread that calls it.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.callconv import RETCODE_USEREXC
from numba.extending import intrinsic

_SIZE_BITS = 15
"""A thread that is to run share `rank` of `size` finds -(rank * 2**15 + size) for its number of threads."""

_byte_pointer = ir.IntType(8).as_pointer()
_int, _intp = ir.IntType(32), cgutils.intp_t
_share_type = ir.FunctionType(
    ir.VoidType(), [_byte_pointer.as_pointer(), _intp.as_pointer(), _intp.as_pointer(), _byte_pointer]
)
"""Of an inner loop of a NumPy ufunc, (args, dimensions, steps, data), which Numba's pool calls."""


def _prange(typing_context: Any, count: Any) -> Any:
    numba.get_num_threads()  # starts the threads, and makes their functions known to LLVM

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = context.cast(builder, args[0], signature.args[0], types.intp)
        zero, one = _intp(0), _intp(1)
        first, end = cgutils.alloca_once_value(builder, zero), cgutils.alloca_once_value(builder, zero)
        threads = builder.sext(builder.call(_pool_function(builder.module, "get_num_threads"), []), _intp)
        with builder.if_else(builder.icmp_signed(">", threads, zero)) as (called, shared):
            with called:
                _let_no_arrays_overlap(builder.function)
                fewer = builder.icmp_signed("<", count, threads)
                _run_on_threads(context, builder, threads, builder.select(fewer, count, threads))
            with shared:
                share = builder.neg(threads)
                rank, size = builder.lshr(share, _intp(_SIZE_BITS)), builder.and_(share, _intp(2**_SIZE_BITS - 1))
                builder.store(builder.sdiv(builder.mul(count, rank), size), first)
                builder.store(builder.sdiv(builder.mul(count, builder.add(rank, one)), size), end)
                _set_num_threads(builder, one)  # for kernels that are called in the loop
        state = cgutils.create_struct_proxy(types.range_state64_type)(context, builder)
        # The mask tells LLVM that the numbers are not negative, so that as indices they do not count from the end.
        state.start = builder.and_(builder.load(first), _intp(2**63 - 1))
        state.stop, state.step = builder.load(end), one
        return state._getvalue()

    return types.range_state64_type(count), codegen


prange: Any = intrinsic(_prange)
"""``prange(count)``: the numbers below `count` that are this thread's; in a ``for`` statement of a kernel."""


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


def _run_on_threads(context: Any, builder: Any, threads: Any, size: Any) -> None:
    """Call the kernel that is being built, with its own arguments, `size` times, on as many threads.

    It raises what any of the calls raises.
    """
    kernel = builder.function
    error_type = kernel.args[1].type.pointee
    arguments = _without_owners(context, kernel.args[2:])
    shared_type = ir.LiteralStructType([_intp, _intp, error_type, *(argument.type for argument in arguments)])
    with builder.goto_entry_block():
        shared = builder.alloca(shared_type)
        ranks, dimensions, steps = builder.alloca(_byte_pointer), builder.alloca(_intp), builder.alloca(_intp)
    for k, value in enumerate([threads, size, error_type(None), *arguments]):
        builder.store(value, cgutils.gep_inbounds(builder, shared, 0, k))
    builder.store(_byte_pointer(None), ranks)  # rank k is address k
    builder.store(size, dimensions)
    builder.store(_intp(1), steps)
    share, data = _share(builder.module, kernel, shared_type), builder.bitcast(shared, _byte_pointer)
    with builder.if_else(builder.icmp_signed(">", size, _intp(1))) as (several, alone):
        with several:
            addresses = [builder.bitcast(pointer, _byte_pointer) for pointer in (share, ranks, dimensions, steps)]
            builder.call(
                _pool_function(builder.module, "numba_parallel_for"), [*addresses, data, _intp(0), _intp(1), size]
            )
        with alone:
            builder.call(share, [ranks, dimensions, steps, data])
    error = builder.load(cgutils.gep_inbounds(builder, shared, 0, 2))
    with builder.if_then(cgutils.is_not_null(builder, error), likely=False):
        builder.store(error, kernel.args[1])
        builder.ret(RETCODE_USEREXC)


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


def _share(module: Any, kernel: Any, shared_type: Any) -> Any:
    """The function that calls `kernel` for a share of its loop."""
    function = ir.Function(module, _share_type, name=f"{kernel.name}.share")
    function.linkage = "internal"
    ranks, dimensions, _, data = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    shared = builder.bitcast(data, shared_type.as_pointer())
    members = [cgutils.gep_inbounds(builder, shared, 0, k) for k in range(len(shared_type.elements))]
    threads, size = builder.load(members[0]), builder.load(members[1])
    arguments = [builder.load(member) for member in members[3:]]
    result, error = builder.alloca(kernel.args[0].type.pointee), builder.alloca(kernel.args[1].type.pointee)
    first = builder.ptrtoint(builder.load(ranks), _intp)
    with cgutils.for_range(builder, builder.load(dimensions)) as loop:
        rank = builder.add(first, loop.index)
        _set_num_threads(builder, builder.neg(builder.or_(builder.shl(rank, _intp(_SIZE_BITS)), size)))
        status = builder.call(kernel, [result, error, *arguments])
        _set_num_threads(builder, threads)
        with builder.if_then(builder.icmp_signed(">", status, _int(0)), likely=False):
            builder.store(builder.load(error), members[2])
    builder.ret_void()
    return function
