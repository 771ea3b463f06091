DROP TABLE pipeline_rules;
DROP TABLE identity_provider_audiences;
DROP TABLE identity_providers;
