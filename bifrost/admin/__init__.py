"""The admin REST API: a side wing under ``/api``. It knows the rooms, none of them knows it."""
