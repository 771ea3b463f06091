DROP TABLE evidence;
DROP TABLE verdicts;
DROP TABLE boot_logs;
