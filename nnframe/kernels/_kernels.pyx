# cython: cdivision=True
"""The border between Python and C: checks arrays, brings them into the shape that C wants, calls C without the GIL.

Every public function takes any NumPy array of float32 or float64: strided, negative-strided, read-only, misaligned,
byte-swapped, zero-sized, broadcast. What C cannot read in place is copied. Errors name the argument, what was
expected and what came, and are raised before anything is written. With NNFRAME_KERNELS=reference the same checks
lead to the NumPy versions in reference.py.
"""

import os
import reprlib

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from cython cimport floating
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int32_t, int64_t, intptr_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memset

from nnframe.kernels._c cimport (
    NNF_ACTIVATIONS,
    NNF_CROSS_ENTROPY,
    NNF_FORK,
    NNF_GRU,
    NNF_IDENTITY,
    NNF_JOIN,
    NNF_LINEAR,
    NNF_LSTM,
    NNF_MAX,
    NNF_MAX_CHANGE,
    NNF_MAX_GRADIENT,
    NNF_MEAN,
    NNF_MEAN_GRADIENT,
    NNF_MOST_OPEN,
    NNF_NONE_IGNORED,
    NNF_NOT_STRAIGHT,
    NNF_NO_LOSS,
    NNF_NO_MEMORY,
    NNF_OTHER,
    NNF_RNN_RELU,
    NNF_RNN_TANH,
    NNF_RULES,
    NNF_SQUARED_ERROR,
    nnf_above,
    nnf_activation,
    nnf_activation_alpha,
    nnf_activation_name,
    nnf_attention,
    nnf_batch_norm,
    nnf_branching,
    nnf_cell,
    nnf_central,
    nnf_central_quotients,
    nnf_change_quotients,
    nnf_measured_slopes,
    nnf_moved_along,
    nnf_compiler,
    nnf_convolution,
    nnf_convolution_difference,
    nnf_copies,
    nnf_curves,
    nnf_difference,
    nnf_evaluate_moved,
    nnf_function,
    nnf_get_num_threads,
    nnf_give,
    nnf_isa,
    nnf_isa_at,
    nnf_isa_count,
    nnf_isa_find,
    nnf_kernels,
    nnf_loss,
    nnf_matmul,
    nnf_moved,
    nnf_moved_copies,
    nnf_network,
    nnf_norm,
    nnf_pass,
    nnf_pooling,
    nnf_quotients,
    nnf_slopes,
    nnf_recurrent,
    nnf_recurrent_change,
    nnf_rule,
    nnf_rule_has_k,
    nnf_rule_has_m,
    nnf_rule_has_s,
    nnf_rule_name,
    nnf_selected,
    nnf_set_num_threads,
    nnf_softmax_cross_entropy,
    nnf_sparse,
    nnf_stage,
    nnf_take,
    nnf_update,
)

cnp.import_array()

ctypedef cnp.ndarray array

cdef const nnf_isa *isa = nnf_isa_at(0)
cdef object reference = None    # the module of NumPy versions, where they run instead

# Below this many elementary operations a call is over sooner than the GIL is given back and taken again.
cdef intptr_t KEEP_GIL = 20000

cdef dict ACTIVATIONS = {nnf_activation_name(<nnf_activation>i).decode(): i for i in range(NNF_ACTIVATIONS)}
cdef dict RULES = {nnf_rule_name(<nnf_rule>i).decode(): i for i in range(NNF_RULES)}


# ---- which kernels run ------------------------------------------------------------------------------------

def simd_available():
    """Names of the instruction sets that this build has and this processor runs, best first."""
    return [nnf_isa_at(i).name.decode() for i in range(nnf_isa_count())]


def get_simd():
    """Name of the instruction set in use; "reference" for the NumPy versions."""
    return "reference" if reference is not None else isa.name.decode()


def set_simd(str name not None):
    """Use the kernels of one instruction set, or "reference" for the NumPy versions (tests and benchmarks)."""
    global isa, reference
    if name == "reference":
        from nnframe.kernels import reference as in_numpy
        reference = in_numpy
        return
    found = nnf_isa_find(name.encode())
    if found == NULL:
        raise ValueError(f"NNFRAME_SIMD: expected one of {', '.join(simd_available())}, got {name!r}")
    isa = found
    reference = None


def compiler():
    """Name and version of the compiler that built the kernels."""
    return nnf_compiler().decode()


def set_num_threads(n, at_once):
    """Cut work into as many parts as suit n threads, and run up to at_once of them at a time."""
    for value, name in ((n, "n"), (at_once, "at_once")):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise TypeError(f"{name}: expected an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1 thread, got {value}")
    nnf_set_num_threads(min(n, 1 << 20), min(at_once, 1 << 20))    # C has a limit of its own, far below


def get_num_threads():
    """How many threads kernels may use."""
    return nnf_get_num_threads()


def activation_names():
    """Names of the activations."""
    return list(ACTIVATIONS)


include "_arguments.pxi"
include "_matmul.pxi"
include "_softmax.pxi"
include "_activations.pxi"
include "_differences.pxi"
include "_changes.pxi"
include "_network.pxi"
include "_optimizers.pxi"
include "_convolution.pxi"
include "_normalization.pxi"
include "_recurrent.pxi"
include "_attention.pxi"
include "_random.pxi"

if os.environ.get("NNFRAME_KERNELS", "c") not in ("c", "reference"):
    raise ValueError(f"NNFRAME_KERNELS: expected c or reference, got {os.environ['NNFRAME_KERNELS']!r}")
set_simd(os.environ.get("NNFRAME_SIMD") or simd_available()[0])
if os.environ.get("NNFRAME_KERNELS") == "reference":
    set_simd("reference")
