from dataclasses import replace

from trainer.demo.content import Demo, Run
from trainer.demo.sections.losses import section
from trainer.logging.charts import Curve


def test_each_run_has_a_chart_of_each_loss(demo: Demo) -> None:
    charts = section(demo)
    assert charts.count("<svg") == 4
    assert charts.count("the long run: ") == charts.count("this run: ") == 2


def test_a_loss_that_no_run_has_is_left_out(demo: Demo) -> None:
    without = tuple(replace(run, image=Curve("loss_image", (), ())) for run in demo.runs)
    assert section(replace(demo, runs=without)).count("<svg") == 2
    assert section(replace(demo, runs=(Run("nothing", *(Curve("loss", (), ()),) * 2),))) == ""
