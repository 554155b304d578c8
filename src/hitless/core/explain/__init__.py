"""Why a packet passes or drops."""
