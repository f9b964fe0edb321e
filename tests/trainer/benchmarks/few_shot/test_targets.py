from trainer.benchmarks.few_shot.targets import first_reference, usual_answer
from trainer.benchmarks.sample import Sample


def test_answers_of_training_samples() -> None:
    answers = ["red", "blue", "blue", "red\n", "green", "blue"]
    assert usual_answer(Sample("1", (), {"answers": answers})) == "blue"
    assert usual_answer(Sample("1", (), {"answers": ["red ", "blue", "blue", "red"]})) == "red"
    assert usual_answer(Sample("1", (), {"answer": "yes"})) == "yes"
    assert first_reference(Sample("1", (), {"references": ["A  dog\nruns.", "a dog"]})) == "A dog runs."
