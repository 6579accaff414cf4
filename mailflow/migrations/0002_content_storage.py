"""PostgreSQL keeps the octets of messages as they are: compressing them costs more than it saves on mail's base64."""

from django.db import migrations


def store_uncompressed(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE mailflow_content ALTER COLUMN octets SET STORAGE EXTERNAL")


class Migration(migrations.Migration):
    dependencies = [("mailflow", "0001_initial")]
    operations = [migrations.RunPython(store_uncompressed, migrations.RunPython.noop)]
