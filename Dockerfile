# One image for every process; docker-compose.yml gives each its command (mailproj/processes.py).
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python -m venv /venv
COPY requirements.txt .
# Wheels only: nothing is compiled, so there is no compiler to leave behind.
RUN /venv/bin/pip install --require-hashes --only-binary :all: -r requirements.txt

FROM python:3.11-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MAIL_PROFILE=production MAIL_DATA_DIR=/data STATIC_ROOT=/app/staticfiles
RUN groupadd --gid 1000 mail-app && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /data mail-app \
    && install -d -o 1000 -g 1000 -m 700 /data
WORKDIR /app
COPY --from=build /venv /venv
COPY . .
# Only for this command: collecting files needs settings that a real start must be given.
RUN SECRET_KEY=only-while-the-image-is-being-built-000 ALLOWED_HOSTS=localhost MAIL_DATA_DIR=/tmp/build \
    DATABASE_URL=sqlite:////tmp/build/none.sqlite3 python manage.py collectstatic --no-input && rm -rf /tmp/build
USER 1000:1000
VOLUME /data
EXPOSE 8000 2525 2465 2587 2366 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s CMD ["python", "manage.py", "probe", "web"]
CMD ["python", "-m", "gunicorn", "mailproj.wsgi"]
