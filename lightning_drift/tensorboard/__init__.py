"""The tab Corridor in TensorBoard: the corridor's page, live over the runs of a log folder."""
