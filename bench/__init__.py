"""Measures MeshHold beside SeaweedFS and rclone over S3. Knows only its CLI and its index contract."""
