"""Tab completion: the candidates, and the script in a bash that is really there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from genlab.cli import completion
from genlab.cli.verb import VERBS
from genlab.core import registry

ROOT = Path(__file__).parents[2]


def test_candidates(tmp_path):
    def complete(text):
        return completion.candidates(f"genlab {text}")

    assert complete("") == list(VERBS)
    assert complete("re") == ["resume", "report"]
    assert complete("train model=") == [f"model={m}" for m in registry.names("model")]
    assert complete("train -m model=gan,fl") == ["model=gan,flow_matching"]
    adams = [n for n in registry.names("optimizer") if n.startswith("ad")]
    assert complete("train +optimizer=ad") == [f"+optimizer={n}" for n in adams]
    assert complete("train optimizer=sgd optimizer.mom") == ["optimizer.momentum="]
    assert complete("train optimizer.mom") == []
    assert complete("train hardware.precision=b") == ["hardware.precision=bf16"]
    assert complete("train hardware.comp") == ["hardware.compile="]
    assert complete("train hardware.compile=") == [
        "hardware.compile=true",
        "hardware.compile=false",
    ]
    assert {"seed=", "sampler=", "sampler."} <= set(complete("train s"))
    assert "--dry-run" in complete("train --") and complete("sample --d") == []
    assert complete("train --cfg ") == ["job"] and complete("train --config-dir ") == []
    assert complete("list opt") == ["optimizer"] and complete("completion z") == ["zsh"]
    assert "weights=" in complete("sample w") and complete("sample model") == []
    run = tmp_path / "gan-digits" / "20250102-030405-abc123"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert complete(f"sample outputs={tmp_path} run=") == ["run=latest", "run=abc123"]
    (run / "config.yaml").write_text("sampler:\n  name: ddim\nguidance:\n  name: cfg\n")
    ours = f"sample outputs={tmp_path} run=abc123"
    assert complete(f"{ours} sampler.gri") == ["sampler.grid="]
    assert complete(f"{ours} sampler.grid=ka") == ["sampler.grid=karras"]
    assert complete(f"{ours} sampler.et") == ["sampler.eta="]
    assert complete(f"{ours} sampler=heun sampler.et") == []
    assert complete(f"{ours} guidance.sc") == ["guidance.scale="]
    assert complete("sample task=") == [
        f"task={t}" for t in ("inpaint", "colourise", "edit", "null")
    ]
    assert complete("eval of=s") == ["of=samples"] and complete("eval split=te") == ["split=test"]
    assert complete("eval weights=") == ["weights=ema", "weights=raw"]
    assert complete("sample weights=r") == ["weights=raw"]
    assert complete("train every.log=") == ["every.log=auto"]
    assert complete("resume allow=") == [
        f"allow=[{what}]" for what in ("config", "data", "world", "moments", "links")
    ]
    assert complete("train fresh=t") == ["fresh=true"] and complete("eval fresh=t") == []
    paths = complete("train sampler.through=")
    assert {"sampler.through=edm", "sampler.through=null"} <= set(paths)
    assert "sampler.through=none" not in paths
    assert complete(f"report outputs={tmp_path} run=a") == ["run=abc123"]
    assert complete(f"compare outputs={tmp_path} latest a") == ["abc123"]
    assert complete("compare s") == ["sort="]


def test_completion_in_a_real_bash(tmp_path):
    (tmp_path / "genlab").write_text(f'#!/bin/sh\nexec {sys.executable} -m genlab "$@"\n')
    (tmp_path / "genlab").chmod(0o755)
    program = r"""
eval "$(genlab completion bash)"
complete -p genlab | grep -q _genlab || exit 9
ask() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=(genlab) COMPREPLY=()
    _genlab
    (IFS='|'; echo "${COMPREPLY[*]}")
}
ask "genlab tra"
ask "genlab train model=ga"
ask "genlab train -m model=gan,fl"
ask "genlab train optimizer.l"
ask "genlab train zzz"
"""
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
           "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}  # fmt: skip
    done = subprocess.run(
        ["bash", "--norc", "-c", program], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "train \ngan \ngan,flow_matching \noptimizer.lr=\n\n"
