"""What the notebooks draw and print beside their ideas, one module for a subject; begin with `plane`.

A cell shows an idea in a few lines; axes, arrows, tables and the reading of kept numbers stand here. Nothing here is an
algorithm: what needs one of `reference` gets it as an argument.

    lineage    00: which line of its parent's pseudocode an optimizer changes, as text and as a map
    plane      00, 01: contours, arrows and paths of runs in two dimensions
    flows      03: paths, losses and energies of a rolling ball
    pl         04: losses and their PL ratios
    walks      05: three rules on one sequence of noisy gradients
    adams      06: an angle and a spike
    hessians   07: matrices as pictures, with the blocks that cut them
    agreement  08: a thousand configurations, and the ladders to the released packages
    speed      09: a step and a state on a machine that one imagines
    training   12: the training runs that are kept in figures/data
"""
