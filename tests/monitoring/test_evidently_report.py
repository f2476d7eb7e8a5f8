import numpy as np
import pyarrow as pa
import pytest

from features.errors import PenstockError
from monitoring.evidently_report import drift_report


def rows(shift, seed):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "origin_offset": np.arange(2000),
            "moved": rng.normal(size=2000) + shift,
            "still": rng.normal(size=2000),
            "score": rng.uniform(size=2000),
        }
    )


@pytest.mark.slow
def test_the_report_shows_the_drifted_column_and_is_a_page_of_its_own(tmp_path):
    path = tmp_path / "reports" / "drift.html"
    found = drift_report(rows(0, 1), rows(1.5, 2), path)
    assert found["drifted"] == 1
    assert set(found["columns"]) == {"moved", "still", "score"}
    assert found["columns"]["moved"] > 1 > 0.05 > found["columns"]["still"]
    page = path.read_text()
    assert "moved" in page
    assert '<script src="http' not in page


def test_sides_without_rows_are_refused_in_words(tmp_path):
    with pytest.raises(PenstockError, match="0 current rows"):
        drift_report(rows(0, 1), rows(0, 1).slice(0, 0), tmp_path / "drift.html")
