"""The command ``dali-cutmix demo``, its data, its training runs and its report."""
