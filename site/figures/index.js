// The ten living figures, in the order in which the course meets them.
export const names = [
  "grams_rule",
  "long_step",
  "rotated_bowl",
  "noise_walk",
  "windows",
  "thermostat",
  "energy_ball",
  "shaving",
  "chase",
  "stuck_v",
];
