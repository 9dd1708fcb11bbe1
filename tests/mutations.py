"""Mistakes planted one at a time: does a test see each of them?

    python tests/mutations.py            all
    python tests/mutations.py quota      those whose description or place has these words
    python tests/mutations.py --list

Each is planted in a copy of the checkout (the compiled kernels come along), and the tests that are about it are run
there. The exit status is 1 where one survives, where a text to replace is not found exactly once, or where these tests
fail without a mistake.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300  # a mutation may make a test run for ever


class Mutation(NamedTuple):
    """A mistake: `old` becomes `new`; `breaks` says what is wrong then, `tests` what is run.

    `where` is a file or a folder, in which `old` is found exactly once, in whichever file.
    """

    where: str
    old: str
    new: str
    breaks: str
    tests: str


MUTATIONS: list[Mutation] = [
    # ---- layers that are sums of terms ----
    Mutation(
        "nnframe/core/bilinear.py",
        "    _compare(link, dy, found, dx, step, run)\n",
        "",
        "gradients by terms are not compared with the layer",
        "tests/gradients/test_bilinear.py",
    ),
    Mutation(
        "nnframe/core/bilinear.py",
        "        if not (np.abs(y - sums).max(axis=1) <= 1e-9 * np.abs(y).max(axis=1)).all():\n"
        "            raise NotThere\n",
        "",
        "terms are not confirmed by random inputs",
        "tests/gradients/test_bilinear.py",
    ),
    Mutation(
        "nnframe/core/bilinear.py",
        "        fixed_source, fixed_output = np.nonzero(np.abs(constant) > least)\n",
        "        fixed_source, fixed_output = np.nonzero(np.abs(constant) > np.inf)\n",
        "terms without a weight are left out",
        "tests/gradients/test_bilinear.py",
    ),
    # ---- central differences of convolutions ----
    Mutation(
        "nnframe/layers/normalization.py",
        "weight = None if self.weight is None else np.repeat(self.weight.value, math.prod(x.shape[2:]))",
        "weight = None",
        "changes pass batch normalisation without its weight",
        "tests/gradients/test_channels.py -k 'the_gradient and batch'",
    ),
    Mutation(
        "nnframe/gradients/channels.py",
        '[] if last else [("other", {})]',
        "[]",
        "each branch is given what the one before has made",
        "tests/gradients/test_channels.py -k 'the_gradient and (residual or branches)'",
    ),
    Mutation(
        "nnframe/layers/normalization.py",
        "left = None if total is None else total.astype(d.dtype).reshape(a.shape)",
        "left = None if total is None else np.ones_like(a)",
        "what rounding left of the mean is another number",
        "tests/gradients/test_channels.py -k the_gradient",
    ),
    # ---- networks in one call ----
    Mutation(
        "nnframe/core/network.py",
        "not found.fixed or not all(map(found.held.__contains__, key))",
        "not found.fixed",
        "a layer made anew in each run is taken for another one that had its id",
        "tests/gradients/test_in_one_call.py",
    ),
    Mutation(
        "nnframe/core/network.py",
        "    if not once or not len(once) == len(parameters) == len(own) or once",
        "    if not once or once",
        "parameters that are shared, or used besides, are overlooked",
        "tests/gradients/test_in_one_call.py",
    ),
    Mutation(
        "nnframe/core/network.py",
        "            if not np.allclose(again.output, self.output, bound, bound * size, equal_nan=True):",
        "            if False:",
        "links of a pass are those of other parameters",
        "tests/gradients/test_in_one_call.py",
    ),
    Mutation(
        "nnframe/core/network.py",
        "                parameter.grad.fill(0)",
        "                pass",
        "the gradient of what is not trained is what it was",
        "tests/gradients/test_in_one_call.py",
    ),
    Mutation(
        "nnframe/losses/cross_entropy.py",
        "        if self.ignore_index is not None and np.ndim(t) == 2:",
        "        if False:",
        "soft labels with an ignore_index are taken in one call",
        "tests/gradients/test_in_one_call.py",
    ),
    # ---- sequences ----
    Mutation(
        "nnframe/layers/recurrent.py",
        "dx if below is None or dx is None else below + dx",
        "dx",
        "the gradient of one direction replaces that of the other",
        "tests/layers/test_recurrent.py",
    ),
    Mutation(
        "nnframe/layers/recurrent.py",
        "first = dq[-1] if reverse else dq[0]",
        "first = dq[0]",
        "the first step of the second direction is left out of its bias",
        "tests/layers/test_recurrent.py",
    ),
    Mutation(
        "nnframe/layers/sequences.py",
        "np.arange(x.shape[1]) + 0.5 < lengths[:, None]",
        "np.arange(x.shape[1]) < lengths[:, None]",
        "a length that moves a little is another length",
        "tests/layers/test_recurrent.py",
    ),
    Mutation(
        "nnframe/layers/attention.py",
        "given = inputs[min(part, len(inputs) - 1)]",
        "given = inputs[0]",
        "keys are moved by the features of the queries",
        "tests/layers/test_transformer.py",
    ),
    Mutation(
        "nnframe/layers/attention.py",
        " or (mask is not None and (mask != (x + dx != 0).any(axis=-1)).any())",
        "",
        "a step that is no padding any more stays hidden",
        "tests/layers/test_transformer.py",
    ),
    Mutation(
        "nnframe/layers/transformer.py",
        'first = Branches(Padding(), self.norm1, join="multiply") if self.mask_zero else self.norm1',
        "first = self.norm1",
        "attention after a norm sees padding",
        "tests/layers/test_transformer.py",
    ),
    # ---- those that once survived the whole suite ----
    Mutation(
        "nnframe/gradients",
        "        gradient[units.start : units.stop] = 0\n",
        "",
        "what only= leaves out is not zeroed",
        "tests/gradients/test_selected_entries.py",
    ),
    Mutation(
        "nnframe/training/sums.py",
        "self.total += loss * divisor\n            self.divisor += divisor",
        "self.total += loss * 32\n            self.divisor += 32",
        "the training loss of an epoch counts batches, not rows",
        "tests/training/test_means_of_an_epoch.py",
    ),
    Mutation(
        "nnframe/training/sums.py",
        "        self.right += right\n        self.counted += counted",
        "        self.right += right / counted * 32\n        self.counted += 32",
        "the training accuracy of an epoch counts batches, not rows",
        "tests/training/test_means_of_an_epoch.py",
    ),
    Mutation(
        "nnframe/gradients",
        "SUBTRACTED = 1e-8",
        "SUBTRACTED = 0",
        "curves below layers whose values are subtracted are always in doubt: right, and slow",
        "tests/gradients/test_evaluations.py",
    ),
    Mutation(
        "nnframe/core",
        "        return COUPLES[max([least, *inner])]",
        '        return "rows"',
        "a container of branches always keeps rows apart",
        "tests/gradients/test_forward_only_layers.py -k Branches",
    ),
    Mutation(
        "nnframe/core",
        "        return COUPLES[max([least, *inner])]",
        '        return "entries"',
        "a container of branches always keeps entries apart",
        "tests/gradients/test_forward_only_layers.py -k Branches",
    ),
    Mutation(
        "nnframe/core",
        "        self.backward(x, y, dy, *saved)\n",
        "        return\n",
        "the default backward_parameters does nothing",
        "tests/gradients/test_written_backward.py",
    ),
    Mutation(
        "nnframe/core",
        '"backward_parameters": ("forward", "backward")',
        '"backward_parameters": ("forward",)',
        "the inherited backward_parameters counts beside a derived class's backward",
        "tests/gradients/test_written_backward.py",
    ),
    Mutation(
        "nnframe/config.py",
        "min([affinity, *_quotas(root)])",
        "affinity",
        "a container's CPU quota is ignored",
        "tests/package/test_config.py",
    ),
    Mutation(
        "nnframe/config.py",
        "range(len(parts) + 1 if",
        "range(1 if",
        "the quotas of all groups but the uppermost are ignored",
        "tests/package/test_config.py",
    ),
    Mutation(
        "nnframe/config.py",
        "min(int(n), MOST_THREADS), processors())",
        "min(int(n), MOST_THREADS), MOST_THREADS)",
        "more threads than processors run at a time",
        "tests/kernels/test_threads.py",
    ),
    Mutation(
        "nnframe/training/fitting.py",
        "        passed = measured.forward_pass\n",
        '        passed = self.__dict__.setdefault("kept", measured.forward_pass)\n',
        "the forward pass of an earlier batch is taken for this one's",
        "tests/training/test_means_of_an_epoch.py",
    ),
    # ---- what is asked of layers ----
    Mutation(
        "nnframe/core/tree.py",
        "            found = Survey()\n            found.of(tree)\n            kinds = found.kinds[id(tree)]",
        "            self.of(tree)\n            kinds = self.kinds[id(tree)]",
        "a layer made anew in each run is taken for another one that had its id",
        "tests/layers/test_walks.py",
    ),
    Mutation(
        "nnframe/core/inquiry.py",
        "1e-12 * np.abs(np.where(np.isfinite(base), base, 0.0))[still]",
        "1e-12 * np.abs(base[still])",
        "an output that was infinite may be anything",
        "tests/gradients/test_claims.py -k infinite",
    ),
    Mutation(
        "nnframe/core",
        '            if not self._parts_agree():\n                return "batch"\n',
        "",
        "parts of the batch are not compared with the whole",
        "tests/gradients/test_forward_only_layers.py -k 'OverRows or RowNumber or SeededMask'",
    ),
    Mutation(
        "nnframe/core",
        '            if not all(self.keeps(mask, "other", allowed) and self.keeps(~mask, "other", allowed) '
        'for mask in halves):\n                return "batch"\n            if not self._keeps_far(halves[0], allowed):',
        "            if False:",
        "rows are not moved while others must stay",
        "tests/gradients/test_forward_only_layers.py -k 'EveryOtherRow or ZeroGate or BatchMax'",
    ),
    Mutation(
        "nnframe/core",
        "            if not self._keeps_far(halves[0], allowed):",
        "            if False:",
        "rows are not moved far",
        "tests/gradients/test_claims.py -k little",
    ),
    Mutation(
        "nnframe/core",
        "np.maximum(own, allowed * _size(base))",
        "1e-12 * _size(base)",
        "what others move by little is lost beside larger outputs",
        "tests/gradients/test_claims.py -k little",
    ),
    Mutation(
        "nnframe/core",
        'return "entries" if alone else "rows"',
        'return "entries"',
        "entries are always apart where rows are",
        "tests/gradients/test_forward_only_layers.py -k 'Softmax or RollFeatures'",
    ),
    Mutation(
        "nnframe/core",
        "        return True\n\n\nclass Memory",
        "        return False\n\n\nclass Memory",
        "what was found is never looked at again",
        "tests/gradients/test_forward_only_layers.py -k 'ZeroGate'",
    ),
    Mutation(
        "nnframe/core",
        "    if COUPLES.index(found.couples) > allowed and COUPLES.index(inquiry.couples(ROUNDED)) > allowed:",
        "    if False:",
        "a wrong claim is believed",
        "tests/gradients/test_claims.py",
    ),
    Mutation(
        "nnframe/core",
        "        if not _same(first, kept, 0.0):",
        "        if False:",
        "one output buffer for all calls is not noticed",
        "tests/gradients/test_forward_only_layers.py -k 'OutputBuffer'",
    ),
    Mutation(
        "nnframe/core",
        "        if changed:\n",
        "        if False:\n",
        "a layer that changes what it holds is not noticed",
        "tests/gradients/test_forward_only_layers.py -k 'GrowingList'",
    ),
    Mutation(
        "nnframe/core",
        "        if not _same(kept, again, _rounding(kept)) or not _same(self.y, kept, _rounding(self.y)):",
        "        if False:",
        "a layer that does not repeat itself is not noticed",
        "tests/gradients/test_forward_only_layers.py -k 'Counting or GeneratorNoise or RunningMean'",
    ),
    Mutation(
        "nnframe/core",
        "        if most > 0 and uneven:",
        "        if False:",
        "rounding to float32 inside is not noticed",
        "tests/gradients/test_forward_only_layers.py -k 'ThroughFloat32'",
    ),
    Mutation(
        "nnframe/core",
        "        if single is not None and _differ(base, single):",
        "        if False:",
        "a layer that takes float32 alone is not noticed",
        "tests/gradients/test_forward_only_layers.py -k 'FloatPointer'",
    ),
    Mutation(
        "nnframe/core",
        "    if found is not None and found.coarse:",
        "    if False:",
        "float64 values that cannot be trusted are subtracted all the same",
        "tests/gradients/test_forward_only_layers.py -k 'ThroughFloat32'",
    ),
    Mutation(
        "nnframe/core",
        "    if pattern.unexpected(moved, own):",
        "    if False:",
        "a pattern that no longer holds is kept",
        "tests/gradients/test_memory.py",
    ),
    Mutation(
        "nnframe/gradients",
        "        if not abs(along - expected) > APART * length:\n            return",
        "        if True:\n            return",
        "the model is not looked at as a whole",
        "tests/gradients/test_forward_only_layers.py -k SkipByAttribute",
    ),
    Mutation(
        "nnframe/core",
        "    if all(np.array_equal(parameter.value, value, equal_nan=True) for parameter, value in values):",
        "    if True:",
        "a composite that changes a parameter is not noticed",
        "tests/gradients/test_forward_only_layers.py -k 'ClipsItsWeight or WeightNorm'",
    ),
    Mutation(
        "nnframe/core",
        "        if known is not None and known() is layer:",
        "        if known is not None:",
        "a new layer is taken for one that is gone",
        "tests/gradients/test_memory.py",
    ),
    Mutation(
        "nnframe/core",
        "elif found.pauses.due() or len(link.y) > found.rows:",
        "elif found.pauses.due():",
        "more rows than were looked at are taken for known",
        "tests/gradients/test_memory.py",
    ),
    # ---- how layers are run ----
    Mutation(
        "nnframe/core",
        "    view.setflags(write=False)\n",
        "",
        "layers can write into what they are given",
        "tests/gradients/test_forward_only_layers.py -k 'InPlaceReLU or OutIsInput'",
    ),
    Mutation(
        "nnframe/core",
        "            y.setflags(False)  #",
        "            pass  #",
        "a composite can write into what a layer in it returned",
        "tests/gradients/test_composition.py -k later_run",
    ),
    Mutation(
        "nnframe/core",
        "            frame.chain = frame.chain and _append_reshaped(frame.current, given, frame.links)",
        "            frame.chain and _append_reshaped(frame.current, given, frame.links)",
        "what is done between two layers is not seen",
        "tests/gradients/test_forward_only_layers.py -k 'Between or Unused'",
    ),
    Mutation(
        "nnframe/core",
        "(y is frame.current or _append_reshaped(frame.current, y, seen))",
        "True",
        "what is done after the last layer is not seen",
        "tests/gradients/test_forward_only_layers.py -k After",
    ),
    Mutation(
        "nnframe/core",
        "    if not same or y.ndim == 0 or len(y) != len(x) or",
        "    if y.ndim == 0 or len(y) != len(x) or",
        "an array of the same shape is taken for the same array",
        "tests/gradients/test_forward_only_layers.py -k 'BeforeBetweenAfter or Copies or RectifiedInPlace'",
    ),
    Mutation(
        "nnframe/core",
        '"difference": ("forward",)',
        '"difference": ()',
        "an inherited difference counts beside another forward",
        "tests/gradients/test_forward_only_layers.py -k 'Hard or EmptySubclass'",
    ),
    Mutation(
        "nnframe/core",
        '"stage": ("forward", "backward", "difference", "perturb")',
        '"stage": ()',
        "C takes a derived class for its base",
        "tests/gradients/test_forward_only_layers.py -k 'Hard or EmptySubclass'",
    ),
    Mutation(
        "nnframe/core",
        't = layer._traits if "forward" not in layer.__dict__ else FORWARD_ONLY',
        "t = layer._traits",
        "a forward of the object itself is passed over",
        "tests/gradients/test_forward_only_layers.py -k a_clipped_tanh",
    ),
    Mutation(
        "nnframe/core",
        'if array.dtype.kind in "iu" and layer.takes_integers:',
        "if False:",
        "ids pass through floating point at the door",
        "tests/gradients/test_forward_only_layers.py -k 'Embedding'",
    ),
    Mutation(
        "nnframe/core",
        'return type(value)(*items) if hasattr(value, "_fields") else tuple(items)',
        "return tuple(items)",
        "a NamedTuple of parameters is copied as a tuple",
        "tests/gradients/test_forward_only_layers.py -k 'NamedTuple'",
    ),
    Mutation(
        "nnframe/core",
        "return rows.astype(np.uint64)",
        "return np.arange(count, dtype=np.uint64)",
        "random numbers do not follow the row",
        "tests/gradients/test_evaluations.py",
    ),
    Mutation(
        "nnframe/core",
        "key = _mix(_mix(seed + _GOLDEN) + counter * _GOLDEN",
        "key = _mix(_mix(seed + _GOLDEN)",
        "random numbers are the same at each step",
        "tests/training/test_training_state.py",
    ),
    Mutation(
        "nnframe/core",
        'return np.array(array, like.dtype, order="C")',
        "return np.array(array, like.dtype)",
        "a value in Fortran order stays so",
        "tests/training/test_assigned_values.py",
    ),
    # ---- gradients of one layer ----
    Mutation(
        "nnframe/core",
        "    if dx.shape != link.x.shape:",
        "    if False:",
        "a backward of another shape is broadcast",
        "tests/gradients/test_forward_only_layers.py -k 'BroadcastShape'",
    ),
    Mutation(
        "nnframe/core",
        "    if dx is None:\n        raise LayerError",
        "    if False:\n        raise LayerError",
        "a backward that forgets return is not named",
        "tests/gradients/test_forward_only_layers.py -k 'NoReturn'",
    ),
    Mutation(
        "nnframe/core",
        "    given = read_only(dy) if t.own else dy",
        "    given = dy",
        "a backward can write into dy",
        "tests/gradients/test_forward_only_layers.py -k 'WritesIntoDy'",
    ),
    Mutation(
        "nnframe/core",
        "step * np.maximum(1, np.abs(value[indices])) if scaled else",
        "step * np.ones(len(indices)) if scaled else",
        "the step does not grow with the parameter",
        "tests/gradients/test_forward_only_layers.py -k Scaled",
    ),
    Mutation(
        "nnframe/core",
        "    width = ends[:, 0] - ends[:, 1]\n",
        "    width = 2 * steps\n",
        "differences are divided by the step asked for, not by the one added",
        "tests/gradients/test_large_parameters.py",
    ),
    Mutation(
        "nnframe/core",
        "        used[chosen, own] = True\n",
        "",
        "all columns are given one colour",
        "tests/gradients/test_forward_only_layers.py -k Convolution",
    ),
    Mutation(
        "nnframe/core",
        "    if not dx.any() and dy.any() and link.x.size:",
        "    if False:",
        "that nothing passes is not said",
        "tests/gradients/test_forward_only_layers.py -k 'Quantiser or Above'",
    ),
    # ---- strategies ----
    Mutation(
        "nnframe/gradients",
        "            self.gradient[indices] = change / width",
        "            self.gradient[indices] = change / (2 * self.step)",
        "CentralDifference divides by the step asked for",
        "tests/gradients/test_large_parameters.py",
    ),
    Mutation(
        "nnframe/gradients",
        "            if any(link is holder for holder in holders):",
        "            if False:",
        "a shared parameter moves in its first layer only",
        "tests/gradients/test_forward_only_layers.py -k 'Twice'",
    ),
    Mutation(
        "nnframe/gradients",
        "                parameter.grad.fill(0)\n            backward_through",
        "                pass\n            backward_through",
        "Backprop adds to the gradient of the step before",
        "tests/gradients/test_written_backward.py",
    ),
    Mutation(
        "nnframe/gradients",
        "sums[id(parameter)] + gradient if id(parameter) in sums else gradient",
        "gradient",
        "of a layer that stands twice the last gradient counts alone",
        "tests/gradients/test_forward_only_layers.py -k 'Twice or Tied'",
    ),
    Mutation(
        "nnframe/gradients",
        "sums.get(id(parameter), 0) if parameter.trainable else 0",
        "sums.get(id(parameter), parameter.grad) if parameter.trainable else 0",
        "a gradient that was not asked for stays what it was",
        "tests/gradients/test_selected_entries.py",
    ),
    Mutation(
        "nnframe/gradients",
        "            tolerance=tolerance_below(self.columns, y),",
        "            tolerance=tolerance_below([], y),",
        "curves in C below a layer whose values are subtracted are always in doubt",
        "tests/gradients/test_evaluations.py",
    ),
    Mutation(
        "nnframe/gradients",
        'if not all(couples_of(one, passed.run) == "entries" for one in columns) or (columns and len(axes) > 1):',
        "if columns and len(axes) > 1:",
        "C takes any layer for one that keeps entries apart",
        "tests/gradients/test_forward_only_layers.py -k 'Softmax or BatchNorm'",
    ),
    Mutation(
        "nnframe/gradients",
        'couples_of(one, passed.run) == "batch" for one in above',
        "False for one in above",
        "curves are taken below layers that mix rows",
        "tests/gradients/test_forward_only_layers.py -k 'BatchNorm or BatchMax'",
    ),
    Mutation(
        "nnframe/gradients",
        "            found.append((self.layer.bias, g.sum(axis=0)))",
        "            found.append((self.layer.bias, g.mean(axis=0)))",
        "NodePerturbation takes a mean over rows for the bias",
        "tests/gradients/test_strategies.py -k node_perturbation",
    ),
    Mutation(
        "nnframe/gradients",
        "slope = (sides[0] - sides[1]) / (2 * step) / self.samples",
        "slope = (sides[0] - sides[1]) / (2 * step)",
        "SPSA adds its samples up",
        "tests/gradients/test_strategies.py -k spsa",
    ),
    # ---- losses, training, kernels ----
    Mutation(
        "nnframe/losses",
        "row_changes(loss, y, t, dy).sum(axis=-1) * loss.row_scale(y, t)",
        "row_changes(loss, y, t, dy).sum(axis=-1)",
        "a change of the loss is a sum where the loss is a mean",
        "tests/gradients/test_forward_only_layers.py -k BatchNorm",
    ),
    Mutation(
        "nnframe/training/fitting.py",
        "        if divisor != 0:\n            if self.hooks",
        "        if True:\n            if self.hooks",
        "a batch in which no row counts ends the training",
        "tests/training/test_means_of_an_epoch.py",
    ),
    Mutation(
        "nnframe/training/fitting.py",
        "            passed.observe()\n",
        "",
        "statistics and random numbers never move",
        "tests/training/test_training_state.py",
    ),
    Mutation(
        "nnframe/training/trainer.py",
        "total, divisor = total + added[0], divisor + added[1]",
        "total, divisor = total + added[0] / added[1], divisor + 1",
        "evaluate takes the mean of the means of its parts",
        "tests/training/test_training_state.py",
    ),
    Mutation(
        "nnframe/kernels/reference_activations.py",
        "    slope=lambda x, y, alpha: (x > 0).astype(x.dtype),",
        "    slope=lambda x, y, alpha: (x >= 0).astype(x.dtype),",
        "the slope of ReLU at 0 is 1 in the NumPy twin",
        "tests/kernels/test_slopes_at_edges.py",
    ),
    Mutation(
        "nnframe/kernels/reference.py",
        "s[...] = s + g * g if",
        "s[...] = s + g if",
        "AdaGrad adds gradients, not their squares, in the NumPy twin",
        "tests/optimizers",
    ),
    Mutation(
        "nnframe/optimizers/base.py",
        "[-g for g in gradients] if self.maximize else gradients",
        "gradients",
        "maximize is not looked at",
        "tests/optimizers",
    ),
    Mutation(
        "nnframe/kernels/reference.py",
        "kept[...] = kind(beta1) * kept + g / (root + kind(eps))",
        "kept[...] = kind(beta1) * kept + direction / root",
        "RMSprop's momentum leaves eps out, in the NumPy twin",
        "tests/optimizers",
    ),
    Mutation(
        "nnframe/losses/likelihood.py",
        "return float(self._weighted(y, t)[1].sum())",
        "return float(len(y))",
        "NLLLoss divides by rows, not by the weights of the positions that count",
        "tests/losses",
    ),
    Mutation(
        "nnframe/layers/padding.py",
        "inside[sources[i]] += moved[i]",
        "inside[sources[i]] = moved[i]",
        "what a padded entry was copied from forgets its own gradient",
        "tests/layers/test_padding.py",
    ),
    Mutation(
        "nnframe/kernels/reference_differences.py",
        "* (scale / (2 * step))",
        "* (scale / step)",
        "differences are twice as large in the NumPy twin",
        "tests/kernels/test_differences.py",
    ),
    Mutation(
        "nnframe/gradients/check/differences.py",
        "if len(some) == written[name].size and right[first:end].all():",
        "if len(some) == written[name].size and right[first:end].any():",
        "an array is clearly right where one of its entries is",
        "tests/gradients/test_check.py",
    ),
    Mutation(
        "nnframe/gradients/check/differences.py",
        "right = (off <= allowed) & (off < np.inf) & (bound <= CLEAR * size)",
        "right = (off <= allowed) & (off < np.inf)",
        "a bound that says nothing makes an array clearly right",
        "tests/gradients/test_check.py",
    ),
    Mutation(
        "nnframe/gradients/check/promises.py",
        "    return not any(_apart(g, _reversed_rows(known[n])",
        "    return True or not any(_apart(g, _reversed_rows(known[n])",
        "what comes out for rows in another order is not looked at",
        "tests/gradients/test_check.py",
    ),
    Mutation(
        "nnframe/gradients/check/subjects.py",
        "        lent = _rooms.pop()",
        "        lent = _rooms[-1]",
        "a check inside another one writes into its memory",
        "tests/gradients/test_check.py",
    ),
    Mutation(
        "nnframe/kernels/reference_changes.py",
        "np.abs(apart) + 8 * rounding",
        "np.abs(apart) + 4 * rounding",
        "noise counts half in the NumPy twin of bounds",
        "tests/kernels/test_changes.py",
    ),
    Mutation(
        "nnframe/kernels/reference_changes.py",
        "            & (change < np.inf)\n",
        "",
        "an infinite difference is relied on in the NumPy twin",
        "tests/kernels/test_changes.py",
    ),
    Mutation(
        "nnframe/kernels/reference_losses.py",
        "gradient[every, lead] = np.where(rest < 1, near_one, gradient[every, lead])",
        "",
        "the gradient of a learnt label cancels in the NumPy twin",
        "tests/kernels/test_digits.py",
    ),
    Mutation(
        "nnframe/gradients/curves.py",
        "0 if exact else SUBTRACTED)",
        "0)",
        "all curves below a loss that is subtracted are in doubt",
        "tests/gradients/test_what_stays_in_c.py",
    ),
    Mutation(
        "nnframe/gradients/work.py",
        "if found.left_out is not None:",
        "if found.left_out is None:",
        "rows that one call leaves out, as they may reach a kink, are not added",
        "tests/gradients/test_in_one_call.py -k kink",
    ),
    Mutation(
        "nnframe/gradients/work.py",
        "share = loss.row_scale(output, labels) / loss.row_scale(part.output, part.labels)",
        "share = 1.0",
        "rows that are added count as if there were no others",
        "tests/gradients/test_in_one_call.py -k kink",
    ),
    Mutation(
        "nnframe/gradients/work.py",
        "pieces = self.work(part, chosen)",
        "pieces = self.work(part, None)",
        "rows that are added bring entries that were not asked for",
        "tests/gradients/test_selected_entries.py tests/gradients/test_in_one_call.py -k selected",
    ),
    Mutation(
        "nnframe/gradients/selection.py",
        'did not have its turn."""\n        self.at = self.before',
        'did not have its turn."""',
        "a block whose gradient failed loses its turn",
        "tests/gradients/test_selected_entries.py",
    ),
    Mutation(
        "nnframe/gradients/straight.py",
        "values[k], base = values_of(link, x, side * size)",
        "values[k], base = values_of(link, x, abs(side) * size)",
        "slopes of elementwise layers are measured on one side",
        "tests/gradients/test_straight.py",
    ),
]


def checkout(folder: Path) -> None:
    """Copy what git knows of, as it is in the working tree, and the compiled kernels."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    compiled = [
        str(path.relative_to(ROOT)) for path in (ROOT / "nnframe").rglob("_kernels.*") if path.suffix in _BINARY
    ]
    if not compiled:
        raise FileNotFoundError("nnframe/kernels: expected compiled kernels; build them in place by pip install -e .")
    for name in [*listed.stdout.splitlines(), *compiled]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


_BINARY = (".so", ".pyd")


def run(folder: Path, tests: str) -> tuple[bool, str]:
    """Run tests in a copy: whether they pass, and their last lines."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    where = "import nnframe, sys; print(nnframe.__file__, file=sys.stderr)"
    seen = subprocess.run(
        [sys.executable, "-c", where], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if seen.returncode == 0 and not seen.stderr.strip().startswith(str(folder)):
        raise RuntimeError(f"expected nnframe of the copy, got {seen.stderr}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *shlex.split(tests)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"ran for more than {SECONDS} s"
    if done.returncode in (2, 3, 4, 5):  # interrupted, internal error, usage, nothing collected
        if "error" in done.stdout.lower() and done.returncode == 2:  # nnframe cannot even be imported
            return False, done.stdout.strip().splitlines()[-1]
        raise RuntimeError(f"pytest {tests}: {done.stdout}{done.stderr}")
    return done.returncode == 0, (done.stdout.strip().splitlines() or ["no output"])[-1]


def plant(folder: Path, mutation: Mutation) -> tuple[Path, str] | None:
    """Put a mistake into the copy and return the file and its text of before; None where it does not fit."""
    place = folder / mutation.where
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    if sum(text.count(mutation.old) for text in texts.values()) != 1:
        return None
    path = next(path for path, text in texts.items() if mutation.old in text)
    path.write_text(texts[path].replace(mutation.old, mutation.new), encoding="utf-8")
    return path, texts[path]


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of a description or a place")
    parser.add_argument("--list", action="store_true", help="print the mistakes and plant none")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.words or any(w in m.breaks + m.where for w in options.words)]
    if options.list:
        print(*(f"{m.where}: {m.breaks}" for m in chosen), sep="\n")
        return 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout(folder)
        for tests in dict.fromkeys(m.tests for m in chosen):
            passed, last = run(folder, tests)
            if not passed:
                wrong.append(f"fails without a mistake: {tests}: {last}")
        for mutation in chosen:
            start = time.perf_counter()
            planted = plant(folder, mutation)
            if planted is None:
                result = "NOT FOUND exactly once"
            else:
                passed, _ = run(folder, mutation.tests)
                planted[0].write_text(planted[1], encoding="utf-8")
                result = "SURVIVES" if passed else "killed"
            print(f"{result:8} {time.perf_counter() - start:5.1f} s  {mutation.where}: {mutation.breaks}", flush=True)
            if result != "killed":
                wrong.append(f"{result}: {mutation.where}: {mutation.breaks}")
    print(f"{len(chosen)} mistakes, {sum(not w.startswith('fails') for w in wrong)} not seen", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
