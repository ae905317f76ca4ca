"""Stand-in for volumedriver.storagerouter."""
