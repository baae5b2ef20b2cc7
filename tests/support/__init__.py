"""What tests share: tiny worlds, watchers, comparisons, commands."""
