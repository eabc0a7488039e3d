from pathlib import Path

import numpy as np
import pytest
from debian_packages import unpacked

from benchmarks.languages import full_table, main, read_stamps
from pipelines.curate.config import DETECTORS, CurateConfig
from pipelines.curate.language import load_detector


def test_the_table_counts_every_caption_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["A dog on the beach.", "de.utf8=Ein Hund am Strand.", "en_GB.utf8=A hound.", "x"]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join([lines[0], "de.utf8=A dog on the beach."]))
    found = read_stamps(tmp_path)
    assert found.captions == ["Ein Hund am Strand.", "A dog on the beach."]
    assert found.languages.tolist() == ["de", "en"]
    main([str(tmp_path), "--full"])
    printed = capsys.readouterr().out
    assert "2 different captions in 2 languages" in printed
    assert "\n| en | 0 / 1 / 0 | - / " in printed
    assert "\n| de | 0 / 1 / 0 | - / 0 / - | de 100 | - / 0 / - | de 100 |" in printed


@pytest.mark.slow
def test_the_default_detector_keeps_english_and_little_else() -> None:
    stamps = read_stamps(unpacked("tuxpaint-stamps-default"))
    config = CurateConfig()
    long = stamps.words >= config.min_words
    found = np.asarray(load_detector(config.detector)(stamps.captions).lang.to_pylist())
    english = stamps.languages == "en"
    assert len(set(stamps.languages)) >= 70
    assert (found[long & english] == "en").mean() > 0.9
    assert (found[long & ~english] == "en").mean() < 0.06
    page = Path(__file__).parents[2].joinpath("docs/languages.md").read_text()
    called = {
        name: np.asarray(load_detector(name)(stamps.captions).lang.to_pylist())
        for name in DETECTORS
    }
    assert "\n".join(full_table(stamps, called)) in page
