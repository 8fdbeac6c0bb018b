"""Our evaluations against lm-evaluation-harness with transformers, on the same model and data."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipes.answers import match
from data_pipes.answers.match import QuestionAnswer
from data_pipes.choices import Question, Questions
from data_pipes.tokenizer import special_id, vocabulary_size
from pure.generation.sampling import Sampling
from stages.evaluate import exact_match, mmlu, perplexity
from stages.evaluate.completion import Decoding
from stages.evaluate.harness import _decoding, _load, harness
from stages.evaluate.task import run_task
from stages.models import language_model
from stages.models.text_prompt import prefix_token
from tests.outside import written
from tests.outside.special_tokens import CHATML, HEADER
from tests.stages.evaluate.small_model import small_model

TEXTS = ["def add(a, b): return a + b", "Question: " + "what is it? " * 60, "x", "Grüße 你好 " * 9]


def _questions() -> list[Question]:
    """24 questions of two subjects, with choices of different lengths."""
    return [
        Question(
            f"What is {i} + {i % 5}? ",
            (str(i), f"{i + i % 5} it is", f"the number {i + 1}", "nobody knows"),
            i % 4,
            "high_school_sums" if i % 3 else "words",
            f"test:{i}",
        )
        for i in range(24)
    ]


@pytest.fixture(scope="module")
def model_pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(our model, lm-eval's wrapper of it as transformers loads it, a folder for model and data)."""
    folder = tmp_path_factory.mktemp("harness")
    ours = small_model(512)
    return ours, _lm_eval_model(language_model.save(folder / "model", ours)), folder


def _lm_eval_model(folder: Path) -> Any:
    """The model of a folder as transformers loads it, in lm-eval's wrapper with default options."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM

        transformers.utils.logging.disable_progress_bar()
        return HFLM(
            pretrained=transformers.AutoModelForCausalLM.from_pretrained(folder),
            tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
            batch_size=4,
            device="cpu",
        )


def _write_jsonl(path: Path, rows: list[dict]) -> str:
    """Writes a JSONL file and returns its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _run_lm_eval(model: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Figures and samples of one task, computed by lm-eval; the samples are in the order of the data."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        from lm_eval import evaluator, simple_evaluate
        from lm_eval.tasks import TaskManager

        patch.setattr(evaluator, "add_env_info", lambda results: None)  # else it runs pip, conda, cmake, ...
        found = simple_evaluate(
            model=model,
            tasks=[config],
            bootstrap_iters=0,
            log_samples=True,
            verbosity="ERROR",
            task_manager=TaskManager(include_defaults=False),
        )
    name = config["task"]
    return {
        "figures": found["results"][name],
        "samples": sorted(found["samples"][name], key=lambda sample: sample["doc_id"]),
    }


def _mmlu_config(folder: Path, subject: str, style: str) -> dict[str, Any]:
    """lm-eval's configuration of one subject: as its MMLU task ("letter") or its ARC task ("answer")."""
    questions = [q for q in _questions() if q.subject == subject]
    rows = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in questions]
    format_fields = {
        "letter": {
            "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
            "D. {{choices[3]}}\nAnswer:",
            "doc_to_choice": ["A", "B", "C", "D"],
            "description": "The following are multiple choice questions (with answers) about "
            f"{subject.replace('_', ' ')}.\n\n",
        },
        "answer": {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"},
    }[style]
    test = _write_jsonl(folder / f"{subject}_test.jsonl", rows)
    dev = _write_jsonl(folder / f"{subject}_dev.jsonl", rows[:3])
    return {
        "task": f"{style}_{subject}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": test, "dev": dev}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "dev",
        "num_fewshot": 3,
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **format_fields,
    }


@pytest.mark.parametrize("style", ["letter", "answer"])
def test_mmlu_log_likelihoods_and_choices_equal_lm_eval(model_pair: Any, style: str) -> None:
    ours, theirs, folder = model_pair
    dev = {s: [q for q in _questions() if q.subject == s][:3] for s in ("high_school_sums", "words")}
    report = run_task(mmlu.mmlu(*ours[:3], Questions(_questions(), dev, "dev"), shots=3, style=style))
    for subject in dev:
        expected = _run_lm_eval(theirs, _mmlu_config(folder, subject, style))
        samples = [sample for sample in report.samples if sample["subject"] == subject]
        asked = [q for q in _questions() if q.subject == subject]
        assert len(samples) == len(expected["samples"]) == len(asked)
        for sample, other in zip(samples, expected["samples"], strict=True):
            assert sample["prompt"] == other["arguments"][0][0]
            logps = [float(pair[0]) for pair in other["filtered_resps"]]
            assert sample["logps"] == pytest.approx(logps, abs=1e-4)
            assert sample["score"] == other["acc"]
            assert sample["score_norm"] == other["acc_norm"]
        assert report.figures[f"acc/{subject}"].value == pytest.approx(expected["figures"]["acc,none"])


def test_perplexity_with_windows_equals_lm_eval(model_pair: Any) -> None:
    ours, theirs, folder = model_pair
    config = {
        "task": "texts",
        "dataset_path": "json",
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "dataset_kwargs": {
            "data_files": {"test": _write_jsonl(folder / "texts.jsonl", [{"text": t} for t in TEXTS])}
        },
        "doc_to_target": "{{text}}",
        "doc_to_text": "",
        "metric_list": [
            {"metric": "word_perplexity"},
            {"metric": "byte_perplexity"},
            {"metric": "bits_per_byte"},
        ],
    }
    theirs._max_length = 64  # so that lm-eval cuts windows
    expected = _run_lm_eval(theirs, config)
    theirs._max_length = None
    found = run_task(perplexity.perplexity(*ours[:3], TEXTS, max_length=64, stride=64))
    for sample, other in zip(found.samples, expected["samples"], strict=True):
        assert -sample["nats"] == pytest.approx(float(other["filtered_resps"][0]), abs=1e-3, rel=1e-6)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert found.figures[name].value == pytest.approx(expected["figures"][f"{name},none"], rel=1e-5)


def test_lm_eval_computes_equal_figures_with_our_model_and_transformers(model_pair: Any) -> None:
    ours, theirs, folder = model_pair
    config = _mmlu_config(folder, "words", "answer")
    found, expected = _run_lm_eval(harness(ours), config), _run_lm_eval(theirs, config)
    for sample, other in zip(found["samples"], expected["samples"], strict=True):
        assert [float(x[0]) for x in sample["filtered_resps"]] == pytest.approx(
            [float(x[0]) for x in other["filtered_resps"]], abs=1e-4
        )
        assert [x[1] for x in sample["filtered_resps"]] == [x[1] for x in other["filtered_resps"]]
    assert found["figures"]["acc,none"] == expected["figures"]["acc,none"]


def test_gsm8k_completions_and_verdicts_equal_lm_eval(model_pair: Any) -> None:
    """Greedy completions of a random model, by our task, by lm-eval with transformers and with our model."""
    ours, theirs, folder = model_pair
    rows = [
        {"question": f"How many are {i} and {i}?", "answer": f"They are many.\n#### {2 * i}"}
        for i in range(6)
    ]
    config = {
        "task": "sums",
        "dataset_path": "json",
        "test_split": "test",
        "output_type": "generate_until",
        "dataset_kwargs": {"data_files": {"test": _write_jsonl(folder / "sums.jsonl", rows)}},
        "num_fewshot": 0,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["Question:", "</s>", "e"], "do_sample": False, "max_gen_toks": 24},
        "metric_list": [{"metric": "exact_match", "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}],
        "filter_list": [
            {
                "name": "flexible",
                "filter": [
                    {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                    {"function": "take_first"},
                ],
            }
        ],
    }
    expected = _run_lm_eval(theirs, config)
    task = exact_match.exact_match(
        *ours[:3],
        [QuestionAnswer(row["question"], row["answer"], str(i)) for i, row in enumerate(rows)],
        decoding=Decoding(Sampling(24, temperature=0.0), stop=("Question:", "</s>", "e")),
        judges=exact_match.JUDGES["gsm8k"],
    )
    found, with_our_model = run_task(task), _run_lm_eval(harness(ours), config)
    for sample, other, ours_in_lm_eval in zip(
        found.samples, expected["samples"], with_our_model["samples"], strict=True
    ):
        assert sample["output"] == other["resps"][0][0] == ours_in_lm_eval["resps"][0][0]
        assert sample["verdicts"]["flexible"] == bool(other["exact_match"])
    assert match.exact_match("#### 4", rows[2]["answer"])


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n", " B"),
        ("", "<|endoftext|>a"),
        ("", "def"),
        ("Answer: A", "nswer B"),
        ("The retur", "n a + b"),
        ("Answer: \n", "B C"),
    ],
)
def test_unusual_requests_have_transformers_log_likelihoods(
    model_pair: Any, context: str, continuation: str
) -> None:
    """Special tokens in the text, no context, merges across the boundary, white space before it."""
    from lm_eval.api.instance import Instance

    ours, theirs, _ = model_pair
    requests = [Instance("loglikelihood", {}, (context, continuation), 0)]
    ((found, found_greedy),), ((expected, expected_greedy),) = (
        harness(ours).loglikelihood(requests),
        theirs.loglikelihood(requests, True),
    )
    assert found == pytest.approx(expected, abs=1e-4)
    assert found_greedy == expected_greedy


BEGIN = "<|begin_of_text|>"
NO_BOS = HEADER.replace("{{ bos_token }}", "")
OTHER_TOKENIZERS: dict[str, dict[str, Any]] = {
    "a bos in the post_processor":
        {"bos_token": BEGIN, "eos_token": "<|eot_id|>", "before": (BEGIN,), "chat_template": HEADER},
    "a bos in the post_processor and none in the template":
        {"bos_token": BEGIN, "eos_token": "<|eot_id|>", "before": (BEGIN,), "chat_template": NO_BOS},
    "a bos and an eos":
        {"bos_token": BEGIN, "eos_token": "<|end_of_text|>", "before": (BEGIN,), "after": ("<|end_of_text|>",),
         "chat_template": HEADER},
    "no bos, an eos that is not the configuration's": {"eos_token": "<|eot_id|>", "chat_template": HEADER},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TOKENIZERS)
def test_tokens_that_a_tokenizer_adds_are_where_lm_eval_adds_them(name: str, tmp_path: Path) -> None:
    """Log-likelihoods of pairs and whole texts, completions and chats equal transformers' in lm-eval."""
    from lm_eval.api.instance import Instance

    folder = written.model(tmp_path, generation={"eos_token_id": [1, 4]}, **OTHER_TOKENIZERS[name])
    loaded, theirs = language_model.load(folder), _lm_eval_model(folder)
    ours = harness(loaded)
    unused_ids = range(vocabulary_size(loaded.tokenizer), loaded.model.config.vocab_size)
    theirs.model.generation_config.suppress_tokens = [*unused_ids]  # as ours never samples them
    chat = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "What is it?"}]
    prompt = ours.apply_chat_template(chat)
    assert prompt == theirs.apply_chat_template(chat)
    continued = [*chat, {"role": "assistant", "content": "It is"}]
    assert ours.apply_chat_template(continued, False) == theirs.apply_chat_template(continued, False)
    pairs = [
        ("What is", " it?"),
        ("", "It is"),
        ("", f"{BEGIN}It"),
        (f"{BEGIN}What is ", "it"),
        (prompt, "It is"),
        ("What is it?\n", "46"),
    ]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    expected = theirs.loglikelihood(requests, True)
    found = ours.loglikelihood(requests)
    assert [x[0] for x in found] == pytest.approx([x[0] for x in expected], abs=1e-4)
    assert [x[1] for x in found] == [x[1] for x in expected]
    texts = ["What is it? It is a small text.", f"{BEGIN}12 + 34 = 46."]
    documents = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    rolling = theirs.loglikelihood_rolling(documents, True)
    assert ours.loglikelihood_rolling(documents) == pytest.approx(rolling, abs=1e-4)
    report = run_task(perplexity.perplexity(*loaded[:3], texts[:1], prefix=prefix_token(loaded)))
    assert -report.samples[0]["nats"] == pytest.approx(rolling[0], abs=1e-4)
    options = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 12}
    prompts = [
        Instance("generate_until", {}, (text, dict(options)), i) for i, text in enumerate(["What is", prompt])
    ]
    assert ours.generate_until(prompts) == [theirs.generate_until([one], True)[0] for one in prompts]


def test_a_system_message_that_the_template_refuses_is_dropped_as_in_lm_eval(tmp_path: Path) -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    tokens = ("<|im_start|>", "<|im_end|>")
    folder = written.model(tmp_path, tokens, eos_token="<|im_end|>", chat_template=source)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
    with pytest.warns(UserWarning, match="without its system message"):
        text = harness(language_model.load(folder)).apply_chat_template(chat)
    assert text == _lm_eval_model(folder).apply_chat_template(chat)
    with pytest.raises(ValueError, match="no system"):
        harness(language_model.load(folder)).apply_chat_template([chat[0]])


@pytest.mark.parametrize(
    ("enable_thinking", "end"), [(None, "assistant\n"), (False, "none"), (True, "assistant\n")]
)
def test_thinking_is_turned_off_as_in_lm_eval(enable_thinking: bool | None, end: str, tmp_path: Path) -> None:
    source = CHATML + "{% if enable_thinking is defined and not enable_thinking %}none{% endif %}"
    written.model(tmp_path, ("<|im_start|>", "<|im_end|>"), eos_token="<|im_end|>", chat_template=source)
    loaded = _load(str(tmp_path), device="cpu", enable_thinking=enable_thinking)
    assert loaded.apply_chat_template([{"role": "user", "content": "Hi"}]).endswith(end)


def test_the_end_of_turn_of_the_given_template_stops_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "{% for message in messages %}{{ message.content + '<|eot|>' }}{% endfor %}"
    tokens = ("<|a|>", "<|eot|>", "<|im_start|>", "<|im_end|>")
    loaded = language_model.load(written.model(tmp_path, tokens, eos_token="<|eot|>", chat_template=own))
    turn_end, stop_tokens = special_id(loaded.tokenizer, "<|im_end|>"), list[tuple[int, ...]]()

    def complete(
        model: Any, params: Any, tokenizer: Any, prompts: list, numbers: Any, decoding: Decoding, **_: Any
    ) -> list:
        stop_tokens.append(decoding.sampling.stop_tokens)
        return [SimpleNamespace(text="")] * len(prompts)

    monkeypatch.setattr("stages.evaluate.harness.complete", complete)
    for name in (None, "chatml"):
        harness(loaded, chat_template=name).generate_until([SimpleNamespace(args=("Hi", {}))])
    assert [turn_end in stops for stops in stop_tokens] == [False, True]


def test_generation_options_of_lm_eval_are_converted_or_refused() -> None:
    greedy, sampled = {"do_sample": False, "temperature": 0.7}, {"do_sample": True, "temperature": 0.7}
    assert [
        _decoding(options, 0).sampling.temperature for options in (greedy, sampled, {"temperature": 0.5}, {})
    ] == [
        0,
        0.7,
        0.5,
        0,
    ]
    assert _decoding({"until": "a", "max_gen_toks": 3}, 0).stop == ("a",)
    with pytest.raises(ValueError, match="got repetition_penalty"):
        _decoding({"repetition_penalty": 1.2}, 0)


def test_lm_eval_loads_our_model_by_its_registered_name(model_pair: Any) -> None:
    from lm_eval.api.registry import get_model

    from stages.evaluate.harness import register

    ours, _, folder = model_pair
    register()
    loaded = get_model("intro2llm").create_from_arg_string(
        f"path={folder / 'model'},max_length=64", {"device": "cpu"}
    )
    request = SimpleNamespace(args=("def add", "(a, b)"))
    assert loaded.loglikelihood([request]) == harness(ours, max_length=64).loglikelihood([request])
    with pytest.raises(ValueError, match="--model_args: unknown add_bos_token; expected path"):
        get_model("intro2llm").create_from_arg_string(f"path={folder / 'model'},add_bos_token=True", {})
    chat = [{"role": "user", "content": "Hi"}]
    assert loaded.apply_chat_template(chat) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
