"""Photos with positions, S2 cells and spherical geometry."""
