"""The script for GPUs, on two cores of a CPU: its checks are the same, its figures mean nothing there."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


def test_the_checks_hold_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--tiny", "--only", "a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("PASS") for line in lines) == 8 and not any(line.startswith("FAIL") for line in lines)


def test_a_part_that_breaks_is_a_failed_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(card: gpu.Card) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setitem(gpu.PARTS, "a", (breaks,))
    assert gpu.main(["--device", "cpu", "--tiny", "--only", "a"]) == 1
    assert "FAIL a: breaks broke: ValueError: no such kernel" in capsys.readouterr().out


def test_without_a_gpu_one_line_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().err
