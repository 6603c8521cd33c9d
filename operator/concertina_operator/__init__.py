"""The operator: decides how many pods a job has. The pure core knows no cluster; shells apply it."""
