ALTER TABLE suppression_rules DROP COLUMN expiry_counted_at;
