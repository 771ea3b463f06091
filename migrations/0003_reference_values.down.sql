DROP TABLE baseline_assignments;
DROP TABLE baseline_versions;
DROP TABLE baselines;
DROP TABLE reference_values;
DROP TABLE policy_versions;
DROP TABLE policies;
