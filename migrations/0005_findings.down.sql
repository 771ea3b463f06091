DROP TABLE alerts;
DROP TABLE suppression_rules;
DROP TABLE recommendations;
DROP TABLE assessments;
