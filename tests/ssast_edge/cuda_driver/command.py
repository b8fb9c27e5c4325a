"""`ssast-edge` over the stand-ins: python command.py COMMAND ARGUMENT...

TensorRT is the stand-in, whose engines give the window as logits.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from ssast_edge.cli import main  # noqa: E402
from tests.ssast_edge.cuda_driver import tensorrt_stand_in  # noqa: E402

if __name__ == "__main__":
    sys.modules["tensorrt"] = tensorrt_stand_in
    main()
