"""From a folder of pictures to an adapter file, and every command of dora-studio. Importing this loads nothing."""
