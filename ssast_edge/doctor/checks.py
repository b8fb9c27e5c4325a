"""Every check, by area, in the order of the report."""

from ssast_edge.doctor import gpu, machine, model, sound, tensorrt
from ssast_edge.doctor.finding import Check

# Areas are examined side by side, the checks of one after another.
AREAS: dict[str, tuple[Check, ...]] = {
    "machine": machine.CHECKS,
    "sound": sound.CHECKS,
    "model": model.CHECKS,
    "GPU": (*gpu.CHECKS, *tensorrt.CHECKS),
}
