# Stand-in: gunicorn for the API. The real one uses gevent.
bind = "127.0.0.1:8002"
workers = 2
worker_class = "gthread"
threads = 4
timeout = 60
loglevel = "info"
