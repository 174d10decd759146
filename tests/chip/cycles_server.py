"""wolfpine's Blackhole with its timing model, telling how long each unit of each core was busy.

TT_SIM_PROFILE, wolfpine's own way, wants pyarrow, so a NumPy that ttnn does not take. This counts
the same events and writes them, as they come, to the JSON file that TESSERA_CYCLES names.
"""

import json
import os
import pathlib
import runpy
import threading
import time

from framework.trace.bus import get_bus
from framework.trace.events import ComputeEvent, EventCategory

OUT = pathlib.Path(os.environ["TESSERA_CYCLES"])
busy: dict[str, int] = {}
spans: dict[str, list[int]] = {}


def count(event: ComputeEvent) -> None:
    chip, y, x, unit = event.unit_id
    del chip
    core = f"{x}-{y}"
    key = f"{core} {unit} {event.target_unit}"
    busy[key] = busy.get(key, 0) + event.duration
    span = spans.setdefault(core, [event.cycle, event.cycle])
    span[1] = event.cycle + event.duration


def tell() -> None:
    while True:
        time.sleep(0.2)
        part = OUT.with_suffix(".part")
        part.write_text(json.dumps({"busy": dict(busy), "spans": dict(spans)}))
        part.replace(OUT)


bus = get_bus()
for category in EventCategory:
    bus.set_category_enabled(category, category is EventCategory.COMPUTE)
bus.subscribe(EventCategory.COMPUTE, count)
bus.enabled = True
threading.Thread(target=tell, daemon=True).start()
runpy.run_path(str(pathlib.Path(__file__).with_name("wolfpine_server.py")), run_name="__main__")
