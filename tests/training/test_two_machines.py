"""The README's command for several machines, with two of them on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from spawn import free_port
from training.test_strategies import assert_as_recorded, tree

ROOT = Path(__file__).parents[2]


def start_machine(config: Path, port: int) -> "subprocess.Popen[str]":
    """torchrun as on one of two machines, with two processes each. The first to come holds the meeting point."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "soda"]
    command += ["--local-addr", "127.0.0.1", "-m", "soda_fast", "train", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_sharded_inside_each_machine(tmp_path: Path) -> None:
    config = tmp_path / "two_machines.yaml"
    # Shards are for the two processes of a machine, as torchrun tells them.
    config.write_text(json.dumps(tree(tmp_path / "run", {"parallel": {"strategy": "hsdp"}})))
    port = free_port()
    machines = [start_machine(config, port) for _ in range(2)]
    try:
        said = [machine.communicate(timeout=500)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(said)
    assert_as_recorded(tmp_path / "run")
    assert sum("training" in text and "images/s" in text for text in said) == 1, "one process of all four speaks"
