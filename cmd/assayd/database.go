package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/assay-verifier/assay/store/embedded"
)

// postgresStop is how long the embedded Postgres may take to stop in order before it is stopped at once.
const postgresStop = 20 * time.Second

// startDatabase gives the URL by which the service uses the configured database, starting the embedded one where none is
// configured; the embedded one's login is there once it was migrated (Config.migrateDatabase). stop ends what was started; it comes last of all.
func startDatabase(ctx context.Context, c *Config, log *slog.Logger) (url string, stop func() error, err error) {
	if !c.DatabaseURL.Empty() {
		return string(c.DatabaseURL.Reveal()), func() error { return nil }, nil
	}
	if err := c.makeDataDir(); err != nil {
		return "", nil, err
	}
	postgres, err := embedded.Start(ctx, embedded.Config{DataDir: c.postgresDir(), Logf: infof(log)})
	if err != nil {
		return "", nil, err
	}
	c.ownerURL = postgres.URL()
	return postgres.URLFor(embeddedLogin), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), postgresStop)
		defer cancel()
		return postgres.Stop(ctx)
	}, nil
}

// postgresDir is the folder of the embedded Postgres.
func (c *Config) postgresDir() string { return filepath.Join(c.DataDir, "postgres") }
