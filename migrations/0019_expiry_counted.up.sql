-- What a rule hid is counted again when it expires by itself.

ALTER TABLE suppression_rules ADD COLUMN expiry_counted_at timestamptz;
COMMENT ON COLUMN suppression_rules.expiry_counted_at IS 'When the incidents were counted again after it expired; null before, and where it was changed since.';
