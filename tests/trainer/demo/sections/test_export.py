from trainer.demo.content import Demo
from trainer.demo.sections.export import section
from well_formed import parsed


def test_the_table_lists_each_component(demo: Demo) -> None:
    table = section(demo)
    assert parsed(table).counts["tr"] == 3
    assert "3.4 MB" in table
    assert "2.4e-06" in table
