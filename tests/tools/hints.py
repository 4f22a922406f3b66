"""Every hint that the sources can give, found by their syntax: options and net.toml lines in texts of refusals and warnings.

A hint is called by where it stands and what it proposes: `npz: --bn-epsilon`, "npz._named_norm: `mean = 0`".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from places import ROOT

PACKAGE, CONVERTERS = ROOT / "xnorinfer", ROOT / "converters"
#: What proposes an option: `--name` that is not the beginning of a text, where it names the option that is wrong itself.
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
#: Functions that end a text with net.toml lines: which of their arguments is the first line.
PROPOSE = {
    **{"net_line": 0, "default_warning": 1, "kerasgraph._refuse": 1, "keraskernels._refuse": 1},
    **{"walk.add": 1, "weights.add_node": 2},
}
#: Options that are commands to run or what the user gave, and no way to read a checkpoint.
NO_HINT = {"--help"}


def hints() -> Iterator[str]:
    """All of them, by file; the command line and the runners of frameworks describe options, they propose none."""
    for folder in (CONVERTERS, PACKAGE):
        for path in sorted(folder.rglob("*.py")):
            if {"cli", "frameworks"} & set(path.relative_to(folder).parts):
                continue
            yield from dict.fromkeys(_of_module(path.stem, ast.parse(path.read_text(encoding="utf-8"))))


def _of_module(module: str, tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        name = getattr(statement, "name", None)
        if isinstance(statement, ast.ClassDef):
            for inner in statement.body:
                yield from _of(f"{module}.{getattr(inner, 'name', name)}", inner)
        else:
            yield from _of(f"{module}.{name}" if name else module, statement)


def _of(where: str, tree: ast.AST) -> Iterator[str]:
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return  # a docstring
    if isinstance(tree, ast.Call):
        called = getattr(tree.func, "id", getattr(tree.func, "attr", ""))
        first = PROPOSE.get(called, PROPOSE.get(f"{where.partition('.')[0]}.{called}"))
        if first is not None:
            for line in tree.args[first:]:
                yield f"{where}: `{_text(line)}`"
            for before in tree.args[:first]:
                yield from _of(where, before)
            return
    if isinstance(tree, (ast.Constant, ast.JoinedStr)):
        text = _text(tree)
        for option in OPTION.findall(text):
            if not text.startswith(option + ":") and option not in NO_HINT:
                yield f"{where}: {option}"
        return
    for child in ast.iter_child_nodes(tree):
        yield from _of(where, child)


def _text(expression: ast.expr) -> str:
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return expression.value
    if isinstance(expression, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{}" for part in expression.values)
    return ast.unparse(expression)


ARRAYS, OPTIONS, FRAMEWORKS = (f"test_hints_{name}.py::test_" for name in ("followed", "of_options", "of_frameworks"))
#: The test that follows a hint -> the hints, as patterns: see `matching`.
FOLLOWED: dict[str, list[str]] = {
    "test_cli_tables.py::test_images_are_resized_and_inverted_only_when_asked": ["images._read: --resize"],
    f"{ARRAYS}a_gap_in_the_names": ["npz._named_parts: `weight`"],
    f"{ARRAYS}a_layer_without_a_matrix": ["npz._named_layer: `ignore = [...]`"],
    f"{ARRAYS}a_half_of_batch_norm": ["npz._named_norm: *"],
    f"{ARRAYS}names_of_two_layouts": ['npz.read: `[[layers]] weight = "..."`'],
    f"{ARRAYS}no_layer_at_all": ['assemble.assemble: `[[layers]] weight = "..."`'],
    f"{ARRAYS}a_gap_in_the_numbers": ["npz.read: `weight`", "npz.read: `norm`"],
    f"{ARRAYS}numbers_that_begin_with_a_vector": ['numbered._listed: `[[layers]] weight = "..."`'],
    f"{ARRAYS}vectors_that_fit_two_orders": ["numbered._order: `norm = {mean = ..., *"],
    f"{ARRAYS}vectors_that_are_taken_in_one_order": ["numbered.read_numbered: *", "numbered._order: `norm = {...} in each*"],
    f"{ARRAYS}weights_of_packed_bits": ["statenames.counts_instead: *"],
    f"{ARRAYS}three_vectors": ["numbered._layer: `norm = {...}`"],
    f"{ARRAYS}matrices_of_the_other_layout": ['numbered._layer: `layout = "out_in"`'],
    f"{ARRAYS}weights_of_bits": ["statedict.remark: *"],
    f"{ARRAYS}a_module_that_multiplies_and_adds": ['statedict._unknown: `steps = [{mul = "{}"}, {add = *'],
    f"{ARRAYS}a_module_of_unknown_meaning": [
        "statedict._unknown: `steps = [...]`",
        "statedict._unknown: `scale = ...`",
        "reading.ignore_line: --ignore",
    ],
    f"{ARRAYS}batch_norms_of_unknown_layers": ["pairing.pair: *", "pairing.pair_by_names: `norm = {mean*"],
    f"{ARRAYS}batch_norms_named_in_another_order": ["pairing.pair_by_names: `norm = {...} in each*"],
    f"{ARRAYS}a_batch_norm_of_the_inputs": ["pairing._remark_leading: *"],
    f"{ARRAYS}two_arrays_of_one_meaning": ["loose.loose_modules: *"],
    f"{ARRAYS}a_bias_of_a_layer_or_of_its_batch_norm": ["statedict._layer_with_norm: *"],
    f"{ARRAYS}a_matrix_of_no_known_name": ["loose._lay_out: `line`"],
    f"{ARRAYS}square_matrices": ["loose._lay_out: `*lines`", "loose._lay_out: `layout*"],
    f"{OPTIONS}an_epsilon_that_is_no_number": ["npz._named_layer: --*"],
    f"{OPTIONS}the_epsilon_of_a_file_without_one": ["npz: --bn-epsilon", "defaults.measure_defaults: --bn-epsilon"],
    f"{OPTIONS}zeros_that_one_bit_cannot_hold": ["folding._judge_zeros: *", "opnumbers._zero_problems: *"],
    f"{OPTIONS}ties_that_nothing_decides": ["assemble._remark_ties: --profile", "defaults.measure_defaults: --profile"],
    f"{OPTIONS}floats_that_are_no_pixels": ["model._pixels_from_floats: --input-real"],
    f"{OPTIONS}latents_beyond_h": ["assemble._remark_latents: --h"],
    f"{OPTIONS}what_statistics_contradict": [
        "hiddensums._one_sided: --before-norm",
        "hiddensums._explained: --before-norm",
        "hiddensums._explained: --scale-by",
        "hiddensums._explained: --h",
        "hiddensums._impossible: --h",
        "hiddensums._impossible: --scale-by",
        "hiddensums._links: --center",
    ],
    f"{OPTIONS}a_float_head": [
        "weighing._assume: --float-layer",
        "weightvalues._ordinary: --float-layer",
    ],
    f"{OPTIONS}float_layers_behind_a_first_one": ["hiddensums._float_layers: --float-layer"],
    f"{OPTIONS}float_layers_before_binary_ones": ["firstsums.judge_first: --float-layer"],
    f"{OPTIONS}a_matrix_behind_the_head": ["weightvalues.judge_last: --ignore"],
    f"{OPTIONS}bits_that_are_read_as_latents": ["weightvalues.judge_weights: --*"],
    f"{OPTIONS}a_variance_that_is_called_inv_std": ["hiddensums._mixed_up: --net"],
    f"{OPTIONS}layers_in_another_order": ["hiddensums._misplaced: --net", "hiddensums._impossible: --net"],
    f"{OPTIONS}a_head_of_latents_behind_signs": ["weightvalues._ordinary: --net"],
    f"{OPTIONS}nothing_between_sums_and_batch_norm": ["hiddensums._one_sided: --net"],
    f"{OPTIONS}a_range_that_statistics_leave": ["firstsums.judge_first: --input-*"],
    f"{OPTIONS}how_inputs_enter": ["firstsums.hint: --*", "defaults.measure_defaults: --input-*", "entry: --*"],
    f"{OPTIONS}what_a_graph_makes_of_its_input": [
        "entry.real: *",
        "entry._pixel: *",
        "entry._refuse: *",
        "assemble.rescaled_pixels: *",
    ],
    f"{FRAMEWORKS}a_vector_beside_a_kernel": ['tf1._module: `scale = "{}"`', "tf1._module: `steps*"],
    f"{FRAMEWORKS}vectors_of_no_known_module": ["tf1._module: `*lines`"],
    f"{FRAMEWORKS}a_kernel_that_the_graph_does_not_binarize": ["tf1.defaults: --float-layer"],
    f"{FRAMEWORKS}batch_norms_of_one_width": ["variables._with_norms: *"],
    f"{FRAMEWORKS}a_batch_norm_of_three_vectors": ["variables._module: `norm = {...}`"],
    f"{FRAMEWORKS}a_vector_of_no_known_layer": ["variables._module: `*lines`"],
    f"{FRAMEWORKS}a_float_layer_by_name": ["variables._mark_float: --float-layer"],
    f"{FRAMEWORKS}what_a_config_leaves_open": [
        "walk._end: `activation*",
        "kerasgraph._norm: `epsilon = ...`",
        "keraskernels._quantized: `weight_rule*",
    ],
    f"{FRAMEWORKS}a_number_that_multiplies_later": ["kerasgraph._rescale: `steps*"],
    f"{FRAMEWORKS}a_rescaling_of_several_numbers": ["kerasgraph._rescale: `[input]*"],
    f"{FRAMEWORKS}an_array_that_a_layer_does_not_have": [
        "keraskernels._take: `steps*",
        "keraskernels._take: `scale*",
        "keraskernels._take: `bias*",
    ],
    f"{FRAMEWORKS}an_array_that_is_missing": ["keraskernels._take: `*_lines_of*"],
    f"{FRAMEWORKS}arrays_of_no_layer_of_the_config": ["keras._assemble: `line`"],
    f"{FRAMEWORKS}a_head_that_is_float": ["keraskernels.kernel_of: `kind*", "keraskernels._quantized: `kind*"],
    f"{FRAMEWORKS}an_h_of_text": ["keraskernels._magnitude: --h"],
    f"{FRAMEWORKS}layers_beside_the_chain": ["config._functional: *"],
    f"{FRAMEWORKS}the_input_of_a_config": ["kerasgraph._rescale_input: *"],
    f"{FRAMEWORKS}defaults_of_frameworks": ["usual: --*", "tf1: --bn-epsilon"],
    "test_net_hints.py::test_the_order_and_the_layout_of_layers": ["assemble: --net"],
    "test_net_hints.py::test_a_float_layer_among_binary_ones": ["assemble: --net"],
    "test_net_hints.py::test_the_clip_that_xnor_net_has": ["assemble._as_options_say: `clip_weights*"],
    "test_net_hints.py::test_what_a_float_layer_reads": ["networkparts.in_line: *"],
    "test_net_hints.py::test_a_missing_batch_norm": [
        "assemble._judge_norms: `norm*",
        "assemble._judge_norms: `threshold*",
        "assemble._judge_norms: `activation*",
    ],
    "test_net_hints.py::test_a_file_without_batch_norm_whose_thresholds_stand_elsewhere": ["assemble._judge_norms: `steps*"],
    "test_converters_statedict.py::test_a_scale_in_any_form": ["statedict._layer: *"],
    "test_converters_statedict.py::test_slopes_of_a_prelu": ["statedict._unknown: `prelu*"],
    "test_converters_statedict.py::test_a_vector_that_scales": ['statedict._unknown: `steps = [{mul = "{}"}, ...]`'],
    "test_converters_statedict.py::test_which_of_two_matrices": ["statenames._one_matrix: *"],
    "test_converters_statedict.py::test_words_do_not_order_layers_of_one_width": ["pairing.order_layers: *"],
    "test_converters_keras.py::test_layers_of_one_shape_are_ordered_by_numbers_in_their_names_alone": [
        'variables._in_order: `[[layers]] weight = "...", in their order`'
    ],
    "test_converters_brevitas.py::test_state_dict_with_constant_scales": ["statedict.brevitas_problems: *"],
    "test_converters_tf1.py::test_ema": ["tf1.parts: --ema", "tf1._remark_averages: --ema"],
    "test_converters_torch_files.py::test_averages_in_a_dict_of_their_own": ["averages._chosen: --ema", "averages: --ema"],
    "test_converters_torch_files.py::test_averages_in_the_same_dict": ["averages.split_averages: --ema"],
    "test_converters_torch_files.py::test_tools_that_keep_averages_under_the_name_of_the_weights": [
        "averages._require_no_swap: *"
    ],
    "test_converters_torch_files.py::test_one_of_several_state_dicts": ["averages._chosen: --state"],
    "test_converters_torch.py::test_functions_of_other_modules_are_asked_for": ["torchmodules: --before-norm"],
    "test_converters_tf_graphs.py::test_without_its_graph_the_hints_describe_the_network": ["tfmodel*: --net"],
    "test_converters_onnx_exports.py::test_signs_of_zero_that_the_exporter_took": ["graphlayers._refuse_zeros: --profile"],
    "test_converters_onnx_maps.py::test_a_shape_that_is_open_is_said": [
        "stages: --input-shape",
        "graphmaps.pad: --input-shape",
    ],
    "test_bad_graphs.py::test_one_of_several_outputs": [
        "structure.output_lines: --output-name",
        "structure.told_outputs: --output-name",
    ],
    "test_signs_again.py::test_however_both_are_spelled": ["problems: --sign-of-signs"],
    "test_evidence_input.py::test_a_default_is_replaced_and_what_is_stated_is_warned_about": ["inputmapping.option_of: *"],
    "test_expectation.py::test_the_reading_that_answers_prove_is_found": ["alternatives*: --*"],
    "test_expectation.py::test_the_order_of_batch_norms_operations": ["conversion.require_expected: *"],
    "test_evidence_ternary.py::test_outputs_or_a_net_toml_decide": ["ternary.judge_ternary: --*"],
    "test_layer_order.py::test_a_net_toml_says_the_order": ["layerorder.judge_order: `[[layers]] in their order`"],
    "test_layer_order.py::test_answers_confirm_an_order_or_find_it": ["layerorder.judge_order: --expect"],
    "test_other_files.py::test_the_way_out_of_arrays_in_any_file": ["otherfiles*: --net"],
    "test_net_draft_maps.py::test_state_dicts": ["assemble._lines_for: *", "statedict.group: *"],
    "test_npz_windows.py::test_a_net_toml_says_what_is_missing": [
        "npz.read: `shape = [...]`",
        "npz._named_layer: `stride`",
        "npz._named_layer: `padding`",
    ],
    "test_defaults.py::test_every_number_is_what_the_other_option_changes": ["defaults.measure_defaults: --h"],
}
#: What names an option and proposes none -> why.
NO_PROPOSAL: dict[str, list[str]] = {
    "says that the option which was given is wrong or without effect": [
        "dataio.inverted: --invert",
        "dataio.open_samples: --resize",
        "__init__._read: *",
        "__init__.require_ignored: *",
        "assemble.assemble: --input-shape",
        "assemble.assemble: --output-name",
        "assemble.assemble: --sign-of-signs",
        "structure.choose_output: --output-name",
        "config.read_config: --output-name",
        "livekeras.of_output: --output-name",
        "mxnetsymbol.of_output: --output-name",
        "tfnetwork._output: --output-name",
        "assemble.choose_float_layers: *",
        "assemble._as_options_say: --*",
        "assemble._assume_epsilon: *",
        "averages.choose_state: *",
        "reading.without_ignored: *",
        "bnnpynq.read: *",
        "conversion.with_data: *",
        "walk.read_graph: *",
        "walk._input_shape: *",
        "keraskernels.kernel_of: --float-layer",
        "tf1._with_hint: *",
        "document.read_net: *",
        "writer.net_text: *",
        "torchfile._load_zip: --net",
        "plot.require_drawable: *",
    ],
    "is the place where proposals are made, or a name": [
        "reading.default_warning: *",
        "reading.net_line: *",
        "reading: --ignore",
        "problems._way: *",
        "keraskernels._refuse: *",
    ],
    "is about running and proving, not about reading": [
        "budget: *",
        "certificate.check: *",
        "inputs.find_inputs: *",
        "parts._way_out: *",
        "tables._found: *",
        "running.listen: --port",
        "conversion: --labels",
        "kerasgraph.write: --expect",
        "keras.read: --expect",
        "verification.proves: --expect",
    ],
}


def matching(pattern: str, known: list[str]) -> list[str]:
    """The hints of a pattern, in which `*` is any text and all else is plain."""
    expression = ".*".join(map(re.escape, pattern.split("*")))
    return [hint for hint in known if re.fullmatch(expression, hint, re.DOTALL)]
