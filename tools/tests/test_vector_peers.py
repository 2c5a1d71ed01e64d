"""The peers of `make bench-vectors`, and the texts of their larger table."""

from __future__ import annotations

import re
from pathlib import Path

import glosses
import pytest
import vector_peers
from places import CACHE, REQUIREMENTS, SetupError


def test_every_package_of_the_lock_file_is_a_peers_or_for_all() -> None:
    named = set(re.findall(r"^([a-z0-9-]+)==", (REQUIREMENTS / "vectors.txt").read_text(), re.MULTILINE))
    own = [packages for packages in vector_peers.PEERS.values()]
    assert set().union(*own) | vector_peers.common() == named
    assert sum(map(len, own)) == len(set().union(*own)), "a package of two peers would be common"


def test_a_peer_that_cannot_be_installed_is_named_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed: list[str] = []

    def pip(_python: Path, *arguments: str) -> None:
        text = Path(arguments[-1]).read_text()
        if "hnswlib==" in text:
            raise SetupError("no compiler")
        installed.append(text)

    monkeypatch.setattr(vector_peers, "ensure_venv", lambda: None)
    monkeypatch.setattr(vector_peers, "pip", pip)
    monkeypatch.setattr(vector_peers, "VENV", CACHE / "a-venv")
    vector_peers.ensure_vector_peers()
    assert "hnswlib cannot be installed here and will be left out: no compiler" in capsys.readouterr().out
    assert len(installed) == len(vector_peers.PEERS)
    # What is there is not installed again; what failed is tried again.
    installed.clear()
    vector_peers.ensure_vector_peers()
    assert installed == []
    assert "no compiler" in capsys.readouterr().out


def test_glosses_are_what_stands_behind_the_bar_and_the_licence_is_none() -> None:
    lines = [
        "  1 This software and database is being provided to you | the LICENSEE ",
        '00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived; "it | was"  ',
        "00001741 03 n 01 nothing 0 000 | ",
        "no bar at all",
    ]
    assert glosses.glosses(lines) == ['that which is perceived; "it | was"']


def test_a_package_without_glosses_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        (tmp_path / name).write_text("00001740 03 n 01 entity | one\n")
    monkeypatch.setattr(glosses, "_INSTALLED", tmp_path)
    with pytest.raises(SetupError, match="holds 4 glosses"):
        glosses.ensure_glosses()
    assert not (CACHE / "data" / "wordnet-glosses.txt").exists()
