"""The parts of `backward_cells`: plan, paths, tile and the turned form of a tile, and rows of pixels in lanes."""
