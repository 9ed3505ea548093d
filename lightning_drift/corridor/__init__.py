"""The corridor: learning rate x steps, fitted cell by cell, read from event files, shown on one page."""
