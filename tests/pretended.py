"""A GPU that is not there: tensors that say they lie on one, are computed with on the CPU, and mix as a GPU's do.

    with pretending():
        x = torch.ones(3).to("cuda:0")  # x.is_cuda; x + torch.ones(3) raises, as it would

What it shows is that everything a computation needs lies where the computation is, and that the result is the CPU's.
It has no gradients, no streams and no memory of its own.
"""

from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch import nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda:0")
aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}  # may take from one device what they give on another
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
READ_BACK = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}
READ_BACK |= {aten._unique2.default, aten.bincount.default, aten.repeat_interleave.Tensor}


class Pretended(torch.Tensor):
    """A tensor on the GPU that is not there; `held` are its numbers."""

    @staticmethod
    def __new__(cls, held):
        like = dict(strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=GPU)
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), **like)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a pretended GPU after it is gone")

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Pretence(TorchDispatchMode):
    """Runs every operator on the CPU; `waits` names those for which a GPU makes the host wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """What an operator gives: on the GPU where its tensors are, or where it is told to make them."""
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        there = any(isinstance(x, Pretended) for x in tensors)
        if there:
            self._check(func, args, kwargs, tensors)
        if kwargs.get("device") is not None:
            target = torch.device(kwargs["device"])
            if target.type == "cuda" and kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            if func in CROSSING and there != (target.type == "cuda") and not kwargs.get("non_blocking"):
                self.waits.append(str(func))
            there, kwargs["device"] = target.type == "cuda", torch.device("cpu")
        elif func is aten.copy_.default:
            there = isinstance(args[0], Pretended)
        kwargs.pop("pin_memory", None)
        if torch.Tag.inplace_view in func.tags:
            with no_dispatch():  # the wrapper's own shape
                func(*args, **kwargs)
        owner = {id(x.held): x for x in tensors if isinstance(x, Pretended)}
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        return tree_map(lambda x: owner[id(x)] if id(x) in owner else _given(x, there), found)

    def _check(self, func, args, kwargs, tensors):
        """Raises RuntimeError where tensors of both devices meet: those of one number may come from the CPU, and so
        may indices, which the host waits to send."""
        if func in READ_BACK or (func in INDEXED and any(map(_awaited, filter(_is_tensor, args[1])))):
            self.waits.append(str(func))
        if func in CROSSING:
            return
        if func in INDEXED and isinstance(args[0], Pretended):
            tensors = [args[0], *(x for x in args[2:] if isinstance(x, torch.Tensor))]
        if any(not isinstance(x, Pretended) and x.ndim for x in tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")


class _Moment:
    """A stream, an event: whatever is asked of it is done already."""

    def __getattr__(self, name):
        return lambda *_: self


class _InTurn:
    """An executor that does everything at once, in the caller's own thread, which alone pretends."""

    def __init__(self, **_):
        pass

    def submit(self, work, *args):
        done = Future()
        done.set_result(work(*args))
        return done

    def shutdown(self, **_):
        pass


@contextmanager
def pretending(free=10**9):
    """Makes `cuda:0` a device that holds tensors, with `free` bytes of memory; yields what runs the operators."""
    if torch.cuda.is_available():
        raise RuntimeError("there is a GPU: nothing has to be pretended")
    torch._C._ensureCUDADeviceGuardSet()  # else a driver would be asked for
    changed = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.mem_get_info": lambda device=None: (free, 2 * free),
        "torch.cuda.memory_reserved": lambda device=None: 0,
        "torch.cuda.memory_allocated": lambda device=None: 0,
        "torch.cuda.synchronize": lambda device=None: None,
        "torch.tensor": lambda *args, device=None, **kwargs: _TENSOR(*args, **kwargs).to(device or "cpu"),
        "torch.nn.Module.to": _moved,
        "torch.inference_mode": lambda mode=True: torch.no_grad() if mode else nullcontext(),
        "torch.cuda.Stream": lambda device=None: _Moment(),
        "torch.cuda.current_stream": lambda device=None: _Moment(),
        "torch.cuda.stream": lambda stream: nullcontext(),
        "torch.Tensor.pin_memory": lambda tensor: tensor,
        "torch.Tensor.record_stream": lambda tensor, stream: None,
        "sslcut.data.ahead.ThreadPoolExecutor": _InTurn,
    }
    with ExitStack() as patches, torch.backends.cudnn.flags(enabled=False), Pretence() as pretence:
        for name, instead in changed.items():
            patches.enter_context(mock.patch(name, instead))
        yield pretence


_TENSOR, _TO = torch.tensor, nn.Module.to


def _moved(module, *args, **kwargs):
    """`Module.to`, which cannot make a parameter another kind of tensor by itself."""
    if GPU in args or "cuda" in map(str, args):
        _TO(module, **kwargs)
        for each in module.modules():
            for held in (each._parameters, each._buffers):
                for name, tensor in held.items():
                    if tensor is not None and not isinstance(tensor, Pretended):
                        moved = tensor.detach().to(GPU)
                        held[name] = nn.Parameter(moved, tensor.requires_grad) if held is each._parameters else moved
        return module
    return _TO(module, *args, **kwargs)


def _is_tensor(x):
    return isinstance(x, torch.Tensor)


def _awaited(index):
    """Whether the host waits for an index into a tensor on the GPU: a mask is counted, one on the CPU is sent."""
    return index.dtype in (torch.bool, torch.uint8) or bool(index.ndim and not isinstance(index, Pretended))


def _held(x):
    return x.held if isinstance(x, Pretended) else x


def _given(x, there):
    return Pretended(x) if there and isinstance(x, torch.Tensor) else x
