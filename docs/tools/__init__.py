"""What builds the site: `hooks` is where to begin reading."""
