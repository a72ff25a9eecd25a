"""The algorithms as their papers write them: pure functions, nothing in place, a statement for a line of pseudocode.

Each algorithm is a module with `init(w) -> State` and `step(w, g, state, *, lr, ...) -> (w, State)`; see
`reference.grams` for the pattern and `reference.ops` for what may be fed to it.
"""
