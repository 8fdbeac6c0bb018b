"""Exceptions from the rules, each with its reason. A test fails on an exception that is no longer needed."""

from __future__ import annotations

from collections.abc import Mapping

EFFECTS_ALLOWED = (
    "stages.checkpoint",
    "stages.models",
    "stages.run",
    "stages.evaluate",
    "stages.sandbox",
    "stages.teach",
    "stages.cli",
    "data_pipes.source",
    "data_pipes.embedded.python_library",
    "data_pipes.files",
    "data_pipes.store",
    "data_pipes.workers",
    "data_pipes.worker_process",
    "data_pipes.tokenizer.files",
)
"""The only packages and modules that touch files, the clock, the network and processes."""

LONG_FILES: Mapping[str, str] = {}
"""path -> why it has more than 300 lines."""

DEEP: Mapping[str, str] = {
    "pure/interop/jax/aten": "a table of its own inside the JAX border, one file a kind of operation",
}
"""folder -> why it is five levels deep."""

LONG_FUNCTIONS: Mapping[str, str] = {}
"""module.function -> why it has more than 50 lines of code."""

ALL_FLAGS: Mapping[str, str] = {
    "stages.run.train.train": "the entry for a whole run; it calls the checks and builders below",
    "stages.run.loop.run": "takes all settings of the loop",
    "stages.cli.ladder.Train.__call__": "the type of that entry",
    "stages.cli.demo.pretrain_options": "turns the demo's flags into those of pretraining",
    "stages.run.build.check": "checks the flags of any stage",
    "stages.run.build.build": "chooses the builder of the stage",
    "stages.run.build_pretrain.check": "checks the flags of a stage",
    "stages.run.build_pretrain.build": "turns the flags of a stage into its arguments",
    "stages.run.options.base.check_training_flags": "compares flags with each other",
    "stages.run.options.pretrain.check_pretrain_flags": "compares flags with each other",
    "stages.run.options.tuning.check_tuning_flags": "compares flags with each other",
    "stages.evaluate.options.refuse_unread": "compares flags with each other",
    "stages.evaluate.build.build_tasks": "checks the flags, and calls the builder of each task",
    "stages.evaluate.build.describe_provenance": "describes all flags",
}
"""module.function -> why it takes all flags of a subcommand, besides the subcommands' own functions."""

ITEM: Mapping[str, str] = {
    "pure.random.keys._hash_in_numpy": "called for keys with values only, outside compilers and transforms",
    "pure.loss.check.check_labels": "names the label that is refused, where nothing is compiled or transformed",
    "stages.data_parallel._describe": "sends checksums to the other processes, before the first step",
    "stages.score.completion_ids": "turns ids into text, outside every step that is compiled",
    "stages.score._text_score": "hands text to Python functions, outside every step that is compiled",
}
"""module.function -> why it may read a number out of a tensor."""

IN_PLACE: Mapping[str, str] = {
    "pure.parallel.layers._call_whole": "the layer gathered last, held by one call of a model",
    "pure.generation.stepper._get_compiled_step": "a table of compiled steps, held by one call of generate",
}
"""module.function -> why it may write into an argument."""

STATE: Mapping[str, str] = {
    "stages.teach.suite.read_table": "a memo: the table of tests stays the same while a process runs",
    "pure.interop.jax.opaque.NUMBERS": "torch's operators take numbers, not functions; a number is used once",
    "pure.interop.jax.opaque.FUNCTIONS": "maps a number to its function as long as a reference to that function exists",
    "pure.parallel.group._DATA": "the groups in force; torch.compile guards a list, and cannot trace a ContextVar",
    "pure.parallel.cut_models._RECORDS": "the records being written, as a list for the same reason",
    "data_pipes.embedded.tasks.vocabulary": "a memo: Python's library stays the same while a process runs",
    "data_pipes.embedded.tuning_rows.read_summaries": "a memo: Python's library stays the same while a process runs",
    "stages.cli.flags._with_help": "a memo of a pure function of a class",
    "pure.parallel.agreement._AGREED": "a memo of structures that all processes had, so that a GPU is waited for once",
    "pure.parallel.agreement._mark_of": "a memo of a pure function of two hashable values, looked up once a step",
    "pure.transform.by_layer.plan_parts": "a memo of a pure function of two hashable structures, looked up once a step",
}
"""module.name -> why it may hold state between calls."""

CLASSES: Mapping[str, str] = {
    "stages.teach.overlay.Loader": "Python takes the loader of a module as a class",
    "stages.teach.overlay.Finder": "Python takes the finder of modules as a class",
    "stages.teach.worker.Absent": "Python takes the finder of modules as a class",
    "stages.teach.example.Runner": "doctest takes what it reports as methods of a class",
    "stages.teach.suite_run.Hooks": "pytest takes its hooks as methods of an object",
    "pure.transform.recorder.Recorder": "torch takes a mode as a class",
    "pure.interop.jax.callback._PureOnly": "torch takes a mode as a class",
    "stages.evaluate.harness.Loader": "lm-eval takes a model as a class",
    "stages.evaluate.harness.HarnessModel": "lm-eval takes a model as a class",
    "pure.transform.memory._AllocationTracker": "torch takes a mode as a class",
    "pure.interop.jax.trace_modes._Detach": "torch takes a mode as a class",
    "pure.interop.jax.trace_modes._Watch": "torch takes a mode as a class",
    "stages.checkpoint.dcp._Unpickler": "pickle takes its rules as a class",
    "data_pipes.chat.template._Generation": "jinja2 takes a tag of its own as a class",
    "data_pipes.chat.template_budget.Sandbox": "jinja2 takes the rules of a sandbox as a class",
}
"""module.Class -> why it is neither a NamedTuple, a frozen dataclass nor a Protocol."""

TESTED_ELSEWHERE: Mapping[str, str] = {
    "stages/teach/calls.py": "tests/stages/teach/test_pairs.py",
    "stages/teach/example.py": "tests/stages/teach/test_grader.py",
    "stages/teach/text_check.py": "tests/stages/teach/test_grader.py",
    "stages/teach/verdict.py": "tests/stages/teach/test_grader.py",
    "stages/teach/guard.py": "tests/stages/teach/test_grader.py",
    "stages/teach/messages.py": "tests/stages/teach/test_report.py",
    "stages/teach/probes.py": "tests/stages/teach/test_pairs.py",
    "stages/teach/server.py": "tests/stages/teach/test_grader.py",
    "stages/teach/suite_run.py": "tests/stages/teach/test_grader.py",
    "stages/teach/worker.py": "tests/stages/teach/test_grader.py",
    "data_pipes/chat/batch_encoding.py": "tests/data_pipes/chat/test_chat.py",
    "data_pipes/chat/template_costs.py": "tests/data_pipes/chat/test_template_budget.py",
    "data_pipes/chat/template_checks.py": "tests/data_pipes/chat/test_assistant_spans.py",
    "data_pipes/chat/messages.py": "tests/data_pipes/rows/test_records.py",
    "data_pipes/tokenizer/gguf_sentencepiece.py": "tests/outside/gguf_tokenizers.py",
    "data_pipes/tokenizer/added_tokens_decoder.py": "tests/outside/tokenizer_folders.py",
    "stages/models/tokenizer_config.py": "tests/outside/tokenizer_folders.py",
    "data_pipes/tokenizer/step.py": "tests/outside/tokenizers.py",
    "data_pipes/tokenizer/normalizer.py": "tests/outside/tokenizers.py",
    "data_pipes/tokenizer/pre_tokenizer.py": "tests/outside/tokenizers.py",
    "data_pipes/tokenizer/decoder.py": "tests/outside/tokenizers.py",
    "data_pipes/tokenizer/json_steps.py": "tests/data_pipes/tokenizer/test_json_reader.py",
    "stages/cli/subcommands.py": "tests/stages/cli/test_main.py",
    "stages/teach/answers.py": "tests/stages/teach/test_edition.py",
    "stages/teach/progress.py": "tests/stages/teach/test_edition.py",
    "stages/cli/mistakes.py": "tests/stages/cli/test_flags.py",
    "stages/evaluate/build.py": "tests/stages/cli/test_evaluate.py",
    "stages/evaluate/options.py": "tests/stages/cli/test_evaluate.py",
    "pure/interop/jax/flax_calls.py": "tests/pure/interop/jax/test_flax.py",
    "pure/interop/jax/flax_checks.py": "tests/pure/interop/jax/test_flax.py",
    "pure/interop/jax/flax_linen.py": "tests/pure/interop/jax/test_flax.py",
    "pure/interop/jax/flax_nnx.py": "tests/pure/interop/jax/test_flax.py",
    "pure/transform/per_sample_rows.py": "tests/pure/transform/test_per_sample.py",
    "pure/interop/module_parts.py": "tests/pure/interop/test_module.py",
    "pure/interop/module_trial.py": "tests/pure/interop/test_module.py",
    "pure/interop/gguf.py": "tests/stages/models/test_gguf.py",
    "pure/interop/jax/aten/activation.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/arithmetic.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/comparison.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/creation.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/decomposition.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/indexing.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/order.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/product.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/reduction.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/result.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/shape.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/loss.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/norm.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/piecewise.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/special.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/scatter.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/places.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/table.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/aten/unary.py": "tests/pure/interop/jax/test_aten.py",
    "pure/interop/jax/narrow.py": "tests/pure/interop/jax/test_lower.py",
    "pure/interop/jax/trace_modes.py": "tests/pure/interop/jax/test_trace.py",
    "pure/interop/jax/leaf_checks.py": "tests/pure/interop/jax/test_arrays.py",
    "pure/interop/jax/aten/crossing.py": "tests/pure/interop/jax/test_optax.py",
    "pure/interop/jax/aten/threefry.py": "tests/pure/interop/jax/test_hashing.py",
    "pure/interop/jax/opaque.py": "tests/pure/interop/jax/test_functions.py",
    "pure/interop/jax/callback.py": "tests/pure/interop/jax/test_functions.py",
    "pure/parallel/cut_models.py": "tests/pure/nn/test_tensor_parallel.py",
    "pure/parallel/operators.py": "tests/pure/nn/test_tensor_parallel.py",
    "pure/parallel/vocabulary.py": "tests/pure/nn/test_tensor_parallel.py",
    "pure/loss/vocabulary.py": "tests/pure/nn/test_tensor_parallel.py",
    "pure/nn/tensor_params.py": "tests/pure/nn/test_tensor_parallel.py",
    "pure/nn/inputs.py": "tests/pure/nn/test_transformer.py",
    "pure/nn/dropout.py": "tests/pure/nn/test_transformer.py",
    "pure/parallel/layers.py": "tests/laws/test_sharded.py",
    "pure/parallel/row_collectives.py": "tests/pure/parallel/test_rows.py",
    "stages/sharded.py": "tests/laws/test_sharded.py",
    "pure/interop/peft.py": "tests/stages/models/test_adapter.py",
    "pure/interop/peft_apply.py": "tests/outside/adapters.py",
    "pure/interop/peft_config.py": "tests/outside/adapters.py",
    "pure/interop/peft_targets.py": "tests/outside/adapters.py",
    "pure/interop/peft_weights.py": "tests/outside/adapters.py",
    "stages/checkpoint/loading.py": "tests/stages/checkpoint/test_checkpoint.py",
    "stages/checkpoint/saving.py": "tests/stages/checkpoint/test_checkpoint.py",
    "stages/checkpoint/damage.py": "tests/stages/checkpoint/test_state_file.py",
    "stages/checkpoint/records.py": "tests/stages/checkpoint/test_manifest.py",
    "stages/checkpoint/word_files.py": "tests/stages/checkpoint/test_pieces.py",
    "stages/checkpoint/together.py": "tests/stages/checkpoint/test_pieces.py",
    "stages/checkpoint/assemble.py": "tests/stages/checkpoint/test_pieces.py",
    "stages/checkpoint/skeleton.py": "tests/stages/checkpoint/test_pieces.py",
    "stages/checkpoint/orbax_folder.py": "tests/stages/checkpoint/test_orbax.py",
    "pure/interop/torch_optim_build.py": "tests/pure/interop/test_torch_optim.py",
    "pure/interop/torch_optim_read.py": "tests/pure/interop/test_torch_optim.py",
    "pure/transform/book_keeping.py": "tests/pure/transform/test_ghost.py",
    "pure/transform/examine.py": "tests/pure/transform/test_ghost.py",
    "pure/transform/ghost_norm.py": "tests/pure/transform/test_ghost.py",
    "pure/transform/recorder.py": "tests/pure/transform/test_ghost.py",
    "pure/transform/example_rows.py": "tests/pure/transform/test_ghost.py",
    "stages/dpo.py": "tests/laws/test_stages.py",
    "stages/population.py": "tests/laws/test_stages.py",
    "stages/pretrain.py": "tests/laws/test_stages.py",
    "stages/sft.py": "tests/laws/test_stages.py",
    "stages/models/initial_adapters.py": "tests/stages/models/test_adapter_folder.py",
    "stages/models/folder.py": "tests/stages/models/test_language_model.py",
    "stages/models/shards.py": "tests/outside/weights.py",
    "stages/stage.py": "tests/laws/test_stages.py",
    "stages/step.py": "tests/laws/test_stages.py",
    "stages/experience.py": "tests/stages/test_ppo.py",
    "stages/run/store.py": "tests/stages/run/test_processes.py",
    "stages/run/rewards/scorer.py": "tests/stages/cli/test_tune.py",
    "stages/run/build_online.py": "tests/stages/run/test_build.py",
    "stages/run/vllm_requests.py": "tests/stages/run/test_vllm_rollout.py",
    "stages/run/build_preferences.py": "tests/stages/run/test_build.py",
    "stages/run/build_sft.py": "tests/stages/run/test_build.py",
    "stages/run/experiment.py": "tests/stages/run/test_build.py",
    "stages/run/final_model.py": "tests/stages/run/test_train.py",
    "stages/evaluate/programs.py": "tests/stages/evaluate/test_humaneval.py",
    "data_pipes/worker_process.py": "tests/data_pipes/test_workers.py",
    "stages/run/options/values.py": "tests/stages/run/test_config_file.py",
}
"""path -> the test that covers it, where that is not `tests/PATH/test_NAME.py`."""
