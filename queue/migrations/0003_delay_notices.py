from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('queue', '0002_deliver_by'),
    ]

    operations = [
        migrations.AddField(
            model_name='entry',
            name='retry_at',
            field=models.DateTimeField(blank=True, help_text='When the next attempt is due, where the entry is looked at before that.', null=True),
        ),
        migrations.AddField(
            model_name='entry',
            name='delay_told_at',
            field=models.DateTimeField(blank=True, help_text='When its sender was to be told of the delay, which happens once.', null=True),
        ),
    ]
