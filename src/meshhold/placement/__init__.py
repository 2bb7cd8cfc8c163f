"""Which nodes keep which chunk, and how many copies are enough? Pure decisions; knows no link, disk or clock."""
