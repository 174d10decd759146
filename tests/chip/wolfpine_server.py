"""wolfpine's Blackhole with multicast rectangles masked as the hardware's routers do.

Columns 0, 8, 9 and rows 0, 1 hold no workers.
"""

import runpy

import framework.network.tt_noc as noc

every_destination = noc.rectangle_destinations
noc.rectangle_destinations = lambda *corners: [
    c for c in every_destination(*corners) if c[0] not in (0, 8, 9) and c[1] >= 2
]
runpy.run_module("framework.sim.blackhole", run_name="__main__", alter_sys=True)
