"""`mmlu`: exact prompts, and averages by hand. (Log-likelihoods against lm-eval: test_harness.py.)"""

from __future__ import annotations

import math

import pytest

from data_pipes.choices import Question, Questions
from stages.evaluate.likelihood import Likelihood
from stages.evaluate.mmlu import GROUPS, STYLES, _sample, mmlu, preamble, summarize
from stages.evaluate.task import run_task
from tests.stages.evaluate.small_model import small_model

SUM = Question("1 + 1? ", ("1", "2", "3", "4"), 1, "high_school_sums", "a:1")


def test_the_letter_style_has_the_prompt_of_mmlu() -> None:
    style = STYLES["letter"]
    found = preamble(
        Questions([SUM], {"high_school_sums": [SUM]}, "dev"), "high_school_sums", 1, style
    ) + style.prompt(SUM)
    question = "1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    title = "The following are multiple choice questions (with answers) about high school sums.\n\n"
    assert found == f"{title}{question} B\n\n{question}"
    assert style.continuations(SUM) == [" A", " B", " C", " D"]


def test_the_other_styles_have_the_prompts_of_arc_and_hellaswag() -> None:
    assert STYLES["answer"].prompt(SUM) == "Question: 1 + 1? \nAnswer:"
    assert STYLES["continue"].prompt(SUM) == "1 + 1? "
    assert STYLES["answer"].continuations(SUM) == [" 1", " 2", " 3", " 4"]


def test_summarize_averages_over_questions_subjects_and_groups() -> None:
    """virology is in the group "other", astronomy and machine_learning are in "stem"."""
    scores = {"virology": [1, 0, 0, 0], "astronomy": [1, 1], "machine_learning": [0, 1]}
    samples = [
        {"subject": subject, "score": float(score), "score_norm": 1.0}
        for subject, subject_scores in scores.items()
        for score in subject_scores
    ]
    found = summarize(samples, normalised=True)
    assert found["acc"].value == pytest.approx(4 / 8)
    assert found["acc_macro"].value == pytest.approx((0.25 + 1.0 + 0.5) / 3)
    assert found["acc_macro"].stderr == pytest.approx(math.sqrt(0.25**2 + 0 + 0.5**2) / 3)
    assert found["acc/stem"].value == pytest.approx(3 / 4)
    assert found["acc/other"].value == found["acc/virology"].value == pytest.approx(1 / 4)
    assert found["acc_norm"].value == 1.0
    assert "acc/humanities" not in found


def test_groups_hold_the_57_subjects_of_mmlu() -> None:
    members = [subject for group in GROUPS.values() for subject in group.split()]
    assert len(members) == len(set(members)) == 57


def test_sharing_prefixes_changes_logps_by_rounding_only() -> None:
    questions = [
        Question(f"What is {i}?", ("one", "two", "three", "four"), i % 4, "xy"[i % 2], f"t:{i}")
        for i in range(9)
    ]
    dev = {"x": questions[:3], "y": questions[:3]}
    for style in STYLES:
        shared, separate = [
            run_task(
                mmlu(
                    *small_model(512)[:3], Questions(questions, dev, "dev"), shots=3, style=style, share=share
                )
            )
            for share in (True, False)
        ]
        for one, two in zip(shared.samples, separate.samples, strict=True):
            assert one["logps"] == pytest.approx(two["logps"], abs=1e-4)
            assert one["output"] == two["output"]


def sample(logps: list[float], choices: tuple[str, ...], answer: int) -> dict:
    """The sample of a question with these log-probabilities of its choices."""
    question = Question("Say", choices, answer, "words", "t:1")
    scores = [Likelihood(logp, False, dropped) for dropped, logp in enumerate(logps)]
    return _sample(question, "Say", STYLES["continue"], scores)


def test_the_sample_of_a_question_has_the_likeliest_choice() -> None:
    found = sample([-4.0, -3.0, -8.0], ("ab", "c", "defgh"), 1)
    assert found == {
        "prompt": "Say",
        "output": " c",
        "target": " c",
        "score": 1.0,
        "score_norm": 0.0,
        "subject": "words",
        "logps": [-4.0, -3.0, -8.0],
        "dropped": 2,
    }
    assert [type(found[name]) for name in ("score", "score_norm")] == [float, float]


@pytest.mark.parametrize(
    ("logps", "choices", "best", "best_norm"),
    [
        ([-4.0, -3.0, -8.0], ("ab", "c", "defgh"), 1, 2),  # -2, -3, -1.6 for each character
        ([-1.9, -1.0], ("ab", "c"), 1, 0),  # -0.95, -1.0
        ([-3.0, -8.0], ("c", "abcd"), 0, 1),  # -3, -2
        ([-3.0, -8.0], ("", "abcd"), 0, 1),  # an empty choice counts as one character
        ([-1.0, -8.0], ("", "abcd"), 0, 0),
        ([-2.0, -2.0, -2.0], ("ab", "cd", "ef"), 0, 0),  # of equal ones the first
        ([-9.0, -2.0, -4.0, -2.0], ("a", "b", "cd", "e"), 1, 1),
    ],
)
def test_the_likeliest_choice_and_the_likeliest_for_its_length(
    logps: list[float], choices: tuple[str, ...], best: int, best_norm: int
) -> None:
    for answer, choice in enumerate(choices):
        found = sample(logps, choices, answer)
        assert (found["score"], found["score_norm"]) == (float(answer == best), float(answer == best_norm))
        assert (found["output"], found["target"]) == (f" {choices[best]}", f" {choice}")


def test_a_long_prompt_is_cut_on_its_left_and_the_cut_is_counted() -> None:
    report = run_task(mmlu(*small_model(24)[:3], Questions([SUM], {"high_school_sums": [SUM] * 5}, "dev")))
    assert report.samples[0]["dropped"] > 0
    assert len(report.samples[0]["logps"]) == 4


def test_invalid_arguments_are_refused() -> None:
    loaded = small_model()[:3]
    with pytest.raises(
        ValueError, match="expected 5 examples of the subject 'high_school_sums', got 0 from dev/x"
    ):
        mmlu(*loaded, Questions([SUM], {}, "dev/x"))
    with pytest.raises(ValueError, match="style must be one of letter, answer, continue, got 'b'"):
        mmlu(*loaded, Questions([SUM], {}, "dev"), shots=0, style="b")
    with pytest.raises(ValueError, match="at least one question"):
        run_task(mmlu(*loaded, Questions([], {}, "dev")))
