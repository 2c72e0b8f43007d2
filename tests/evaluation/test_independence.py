"""The package meets models and data through tensors and callables: it imports neither."""

import os
import subprocess
import sys


def test_imports_neither_model_nor_data_nor_training() -> None:
    program = (
        "import sys, soda_fast.evaluation\n"
        "print([m for m in sys.modules if m.startswith(('soda_fast.model', 'soda_fast.training', 'soda_fast.data'))])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
