from trainer.demo.content import Demo
from trainer.demo.sections.origin import section


def test_it_says_how_the_shipped_weights_were_made(demo: Demo) -> None:
    origin = section(demo)
    assert all(fact in origin for fact in ("main 12000", "61.5", "python -m trainer.pretrain toy_scratch"))


def test_the_commands_are_shown_as_text(demo: Demo) -> None:
    origin = section(demo)
    assert "--bare &lt;true&gt;" in origin
    assert "<pre>python -m trainer.pretrain toy --out runs/demo\npython -m trainer.evaluate</pre>" in origin
